"""How far from the uncached run a plan is expected to end, in words.

The expected error of a plan tells the PSNR of its pictures: over runs of four models, of 8 to 28
steps and at all speeds, the logarithms of the two correlate by 0.95 (docs/prediction.md, *What a
plan says beforehand*; `python -m bench.prediction.expected`).
"""

WORDS = (
    (0.007, "very small"),  # nine of ten pictures at 39 dB or more
    (0.015, "small"),  # at 32 dB or more
    (0.03, "visible"),  # at 26 dB or more
)
"""Up to which expected error each word holds; beyond, the difference is large."""


def in_words(expected: float) -> str:
    """An expected error in a word that a user can do something with."""
    return next((word for most, word in WORDS if expected <= most), "large")
