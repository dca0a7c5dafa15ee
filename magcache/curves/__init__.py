"""What is known about a model as a function of the noise level σ, and the files that hold it.

Magnitude curves and Gram curves; calibrations, measured or published (presets); and the store,
which finds the calibration closest to a run. Nothing here uses models, tensors or hosts.
"""

from .calibration import Calibration, CalibrationError
from .gram import GramCurve, GuidedGrams, best_weights, guidance_shares
from .identity import Identity
from .learned import Comparison, Learned, Lesson, Notebook
from .magnitude import CLOSE, MagnitudeCurve, Trajectory, same_levels, shifted_sigmas
from .measurement import Measurement, falling_places, join
from .names import described, numbered
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
    "numbered",
    "same_levels",
    "shifted_sigmas",
]
