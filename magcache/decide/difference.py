"""How far from the uncached run a plan is expected to end, in words.

The expected error of a plan foretells the PSNR of its pictures: over 95 plans of four models, of 8
to 28 steps and at all speeds, its logarithm and the PSNR correlate by -0.95 (docs/method.md,
*What a plan says beforehand*; `python -m bench.prediction.expected`).
"""

WORDS = (
    # PSNR that nine of ten pictures reach, with nine of ten plans:
    (0.007, "very small"),  # 39 dB
    (0.015, "small"),  # 29 dB
    (0.03, "visible"),  # 24 dB
)
"""Up to which expected error each word holds; beyond, the difference is large."""


def in_words(expected: float) -> str:
    """An expected error in a word that a user can do something with."""
    return next((word for most, word in WORDS if expected <= most), "large")
