"""What is known of a model over the noise level σ, and the files it is kept in.

Magnitude curves and Gram curves; calibrations, which are measured or published (presets); the
store, which finds the calibration that is nearest to a run. Knows no model, no tensor, no host.
"""

from .calibration import Calibration, CalibrationError
from .gram import GramCurve, GuidedGrams, best_weights, guidance_shares
from .identity import Identity
from .learned import Comparison, Learned, Lesson, Notebook
from .magnitude import CLOSE, MagnitudeCurve, Trajectory, same_levels, shifted_sigmas
from .measurement import Measurement, falling_places, join
from .names import described
from .store import Found, Store, home

__all__ = [
    "CLOSE",
    "Calibration",
    "CalibrationError",
    "Comparison",
    "Found",
    "GramCurve",
    "GuidedGrams",
    "Identity",
    "Learned",
    "Lesson",
    "MagnitudeCurve",
    "Measurement",
    "Notebook",
    "Store",
    "Trajectory",
    "best_weights",
    "described",
    "falling_places",
    "guidance_shares",
    "home",
    "join",
    "same_levels",
    "shifted_sigmas",
]
