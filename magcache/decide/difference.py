"""Puts a plan's expected difference from the uncached run into words.

A plan's expected error predicts the PSNR of its images. Over 95 plans of four models, with 8 to
28 steps and at all speeds, the logarithm of the error and the PSNR have a correlation of -0.96
(docs/method.md, *What a plan says beforehand*; `python -m bench.prediction expected`).
"""

WORDS = (
    # The PSNR that nine of ten images reach with nine of ten plans:
    (0.007, "very small"),  # 40 dB
    (0.015, "small"),  # 29 dB
    (0.03, "visible"),  # 24 dB
)
"""The largest expected error of each word; anything above is "large"."""


def in_words(expected: float) -> str:
    """A word for an expected error that means something to a user."""
    return next((word for most, word in WORDS if expected <= most), "large")
