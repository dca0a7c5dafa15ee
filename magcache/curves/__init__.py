"""What is known of a model over the noise level σ, and the files it is kept in.

Magnitude curves, Gram curves, published presets and measured calibrations; the store finds the
calibration that is nearest to a run. Knows no model, no tensor and no host.
"""

from .calibration import Calibration, CalibrationError, Measurement, falling_places, join
from .gram import GramCurve, GuidedGrams, best_weights, guidance_shares
from .identity import Identity
from .magnitude import CLOSE, MagnitudeCurve, Trajectory, same_levels, shifted_sigmas
from .presets import Preset
from .store import Found, Store, described

__all__ = [
    "CLOSE",
    "Calibration",
    "CalibrationError",
    "Found",
    "GramCurve",
    "GuidedGrams",
    "Identity",
    "MagnitudeCurve",
    "Measurement",
    "Preset",
    "Store",
    "Trajectory",
    "best_weights",
    "described",
    "falling_places",
    "guidance_shares",
    "join",
    "same_levels",
    "shifted_sigmas",
]
