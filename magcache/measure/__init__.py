"""Measures MagCache on a model: compares runs without it, with it, and with fewer steps.

A host provides a `Subject`, which samples. The result is a table, a picture and a text to send.
"""

from .clock import clocked
from .rows import Row
from .run import Measurement, Step, Subject, environment, known, measure, size_of, written
from .store import Results, Sampled, begun
from .ways import Way, check_steps, speeds_of

__all__ = [
    "Measurement",
    "Results",
    "Row",
    "Sampled",
    "Step",
    "Subject",
    "Way",
    "begun",
    "check_steps",
    "clocked",
    "environment",
    "known",
    "measure",
    "size_of",
    "speeds_of",
    "written",
]
