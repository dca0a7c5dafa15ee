"""A model's identity, by which its calibration is found again."""

from dataclasses import dataclass

_OF_ALL = 16  # digits of a hash over all weights; shorter, older ones cover only a dozen tensors


@dataclass(frozen=True)
class Identity:
    """What tells one model from another. All fields are JSON values.

    Attributes:
        model: Class name of the transformer.
        parameters: Number of parameters.
        shapes: Hash of the parameters' names and shapes, that is, of the architecture.
        weights: Hash of a few entries of each weight; None if they cannot be read.
        patches: What the host applied on top of the weights, such as LoRAs, in a form of its own.
    """

    model: str
    parameters: int
    shapes: str
    weights: str | None = None
    patches: str = ""

    def same_architecture(self, other: "Identity") -> bool:
        """Whether both have the same class and the same parameter names and shapes."""
        return (self.model, self.shapes) == (other.model, other.shapes)

    def may_be(self, other: "Identity") -> bool:
        """Whether the two may be the same model, as far as anything is known."""
        known = all(len(each.weights or "") >= _OF_ALL for each in (self, other))
        return self.same_architecture(other) and (not known or self.same_weights(other))

    def same_weights(self, other: "Identity") -> bool:
        """Whether both are known to be the same model with the same patches."""
        return (
            self.same_architecture(other)
            and self.weights is not None
            and (self.weights, self.patches) == (other.weights, other.patches)
        )
