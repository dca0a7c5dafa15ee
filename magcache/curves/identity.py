"""What a model is known by, so that its calibration is found again."""

from dataclasses import dataclass

_OF_ALL = 16  # digits of a hash over all weights; shorter ones, of older files, are over a dozen


@dataclass(frozen=True)
class Identity:
    """What tells one model from another; its fields are JSON.

    Attributes:
        model: Class name of the transformer.
        parameters: How many numbers it has learned.
        shapes: Hash over its parameters' names and shapes: the architecture.
        weights: Hash over a few entries of its weights, None where they cannot be read.
        patches: What the host has laid over the weights, LoRAs for instance, in its own words.
    """

    model: str
    parameters: int
    shapes: str
    weights: str | None = None
    patches: str = ""

    def same_architecture(self, other: "Identity") -> bool:
        """Whether both are of one class and have parameters of the same names and shapes."""
        return (self.model, self.shapes) == (other.model, other.shapes)

    def may_be(self, other: "Identity") -> bool:
        """Whether nothing that is known tells the two apart."""
        known = all(len(each.weights or "") >= _OF_ALL for each in (self, other))
        return self.same_architecture(other) and (not known or self.same_weights(other))

    def same_weights(self, other: "Identity") -> bool:
        """Whether both are known to be one model, with the same patches."""
        return (
            self.same_architecture(other)
            and self.weights is not None
            and (self.weights, self.patches) == (other.weights, other.patches)
        )
