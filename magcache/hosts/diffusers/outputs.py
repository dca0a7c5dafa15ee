"""Caches and predicts what a pipeline's models return.

In each evaluation a pipeline calls its model once (for a batch of all branches, or the only one)
or once per branch. The outputs of an evaluation are cached together, after its last call.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ...blocks import OutputCall, Path, Residual, signal_names, signals_of, velocities_of
from ...run import Run

_EULER = ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler")


def is_flow(scheduler: Any) -> bool:
    """Whether samples are (1 - σ)·x₀ + σ·ε. Otherwise they are x₀ + σ·ε, scaled for the model."""
    config = scheduler.config
    told = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    diffuses = hasattr(scheduler, "alphas_cumprod") or "sigma_data" in config
    return bool(told) or not diffuses


def level_of(scheduler: Any, sigma: float) -> float:
    """The flow level of a clock's σ."""
    if is_flow(scheduler):
        return sigma
    noise = _edm(scheduler, sigma)
    return noise / (1 + noise)


def is_euler(scheduler: Any) -> bool:
    """Whether the scheduler uses Euler's method without added noise."""
    drawn = scheduler.config.get("stochastic_sampling")
    return type(scheduler).__name__ in _EULER and not drawn


def velocity_of(scheduler: Any, sigma: float) -> tuple[float, float]:
    """The factors of a model's output and input whose sum is the flow velocity.

    The input is (x₀ + σ·ε)/√(1 + σ²). The output is ε, v, x₀, or EDM's F, which is -v.
    """
    if is_flow(scheduler):
        return 1.0, 0.0
    noise, kind = _edm(scheduler, sigma), scheduler.config.get("prediction_type", "epsilon")
    size = (1 + noise**2) ** 0.5
    if "sigma_data" in scheduler.config:
        return -(1 + noise) / size, (noise - 1) / size
    return {
        "epsilon": (1 + noise, -size),
        "v_prediction": ((1 + noise) / size, (noise - 1) / size),
        "sample": (-(1 + noise) / noise, size / noise),
    }.get(kind, (1.0, 0.0))


def _edm(scheduler: Any, sigma: float) -> float:
    """σ of x₀ + σ·ε, in units of the data's standard deviation."""
    if not hasattr(scheduler, "sigmas"):  # the clock's σ is the noise share √(1 - ᾱ)
        return sigma / max(1 - sigma**2, 1e-8) ** 0.5
    return sigma / scheduler.config.get("sigma_data", 1.0)


@dataclass(frozen=True)
class Sampled:
    """What is known about an evaluation besides its calls.

    Attributes:
        level: The flow level.
        size: Factor from a model's input to the flow's latent.
        velocity: See `velocity_of`.
        guides: Whether the model is called for two branches.
        guidance: CFG scale, 1 for a single branch; None if unknown.
        euler: Whether the scheduler uses Euler's method without added noise.
    """

    level: float
    size: float
    velocity: tuple[float, float]
    guides: bool
    guidance: float | None
    euler: bool

    @classmethod
    def by(cls, scheduler: Any, sigma: float, guides: bool, guidance: float | None) -> "Sampled":
        """The facts about an evaluation by a scheduler at a clock's σ."""
        size = 1.0
        if not is_flow(scheduler):
            noise = _edm(scheduler, sigma)
            size = (1 + noise**2) ** 0.5 / (1 + noise)
        level, velocity = level_of(scheduler, sigma), velocity_of(scheduler, sigma)
        return cls(level, size, velocity, guides, guidance, is_euler(scheduler))


Branch = list[torch.Tensor]
"""The tensors that one branch's call has returned, the velocity first."""


@dataclass(frozen=True)
class _Call:
    """One model call.

    Attributes:
        place: Its index within the evaluation.
        x: The model's input.
        velocity: See `velocity_of`.
        halves: Whether its batch holds two branches.
        off: What to add to a velocity to take it from the path, see `Path`.
    """

    place: int
    x: torch.Tensor
    velocity: tuple[float, float]
    halves: bool
    off: torch.Tensor | None = None

    def to_velocity(self, output: torch.Tensor) -> torch.Tensor:
        velocity = self._moved(output, *self.velocity)
        return self._from_path(velocity, 1)

    def from_velocity(self, velocity: torch.Tensor) -> torch.Tensor:
        scale, shift = self.velocity
        return self._moved(self._from_path(velocity, -1), 1 / scale, -shift / scale)

    def _from_path(self, velocity: torch.Tensor, sign: int) -> torch.Tensor:
        if self.off is None or self.off.shape != velocity.shape:
            return velocity
        return (velocity + sign * self.off).to(velocity.dtype)

    def _moved(self, tensor: torch.Tensor, scale: float, shift: float) -> torch.Tensor:
        """scale·tensor + shift·x where they overlap, because one may have more channels."""
        if (scale, shift) == (1, 0) or tensor.ndim != self.x.ndim:
            return tensor
        both = tuple(slice(min(sizes)) for sizes in zip(tensor.shape, self.x.shape, strict=True))
        moved = tensor.clone()
        moved[both] = (scale * tensor[both].float() + shift * self.x[both].float()).to(tensor)
        return moved


class Outputs:
    """The model calls of a run, evaluation by evaluation."""

    def __init__(self) -> None:
        self._count = 0  # calls per evaluation; 0 until the first is over
        self._calls = 0
        self._shape: tuple[int, ...] = ()  # of the first call's input
        self._alike = True  # whether the inputs of all calls have this shape
        self._computed: list[Branch] = []
        self._predicted: list[Branch] = []
        self._mending: list[Branch] = []  # to be added to the branches of the next evaluation
        self._added: list[Branch] = []
        self._structures: dict[int, tuple[TreeSpec, list[Any]]] = {}
        self._cached: Collection[Hashable] = ()  # the parts of the model's last call
        self._strength: Any = None
        self._controls: dict[int, tuple[list[torch.Size], Any]] = {}  # the ControlNet's outputs
        self._controlled = 0  # number of ControlNet calls in this evaluation
        self._last: list[Branch] = []  # the branches of the last evaluation
        self._path: Path | None = Path()
        self._follows: bool | None = None  # whether samples move in the direction of velocities
        self._level = 0.0

    def begin(self, steps: float = 1.0, strength: Any = None) -> bool:
        """Starts an evaluation; returns whether it must start afresh, without cached outputs.

        Args:
            steps: Length of the last evaluation's step, relative to this one's.
            strength: The ControlNet's strength, which the pipeline may change at some step.
        """
        self._controlled = 0
        self._added = [[tensor * steps for tensor in branch] for branch in self._mending]
        self._mending = []
        before, self._count, self._calls = self._count, self._calls, 0
        replaced = self._count > before and len(self._computed) == self._count
        self._last = self._computed or self._predicted
        self._computed, self._predicted = [], []
        changed = before not in (0, self._count) and not replaced
        changed |= strength != self._strength
        self._strength = strength
        if changed:
            self._added = []
        return changed

    def control(self, run: Run, inputs: Iterable[Any], forward: Callable[[], Any]) -> Any:
        """Runs a call of the ControlNet, which precedes the model's call.

        A skipped evaluation does not use its output, so the previous output is returned.
        """
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        shapes, place = [tensor.shape for tensor in tensors], self._controlled
        self._controlled += 1
        known = self._cached and place in self._controls and self._controls[place][0] == shapes
        if not (known and run.skips(self._cached)):
            self._controls.pop(place, None)
            self._controls[place] = shapes, run.aside(tensors[0].device, forward)
        return self._controls[place][1]

    def call(
        self,
        run: Run,
        x: torch.Tensor,
        sampled: Sampled,
        forward: Callable[[], Any],
    ) -> Any:
        """Runs one model call.

        Args:
            run: The run, after `Run.begin` for this evaluation.
            x: The model's input.
            sampled: What else is known about the evaluation.
            forward: The call, with its arguments bound.
        """
        place, self._calls = self._calls, self._calls + 1
        count = max(self._count, place + 1)
        halves = sampled.guides and count == 1 and len(x) % 2 == 0
        if place == 0 and self._path:
            self._follow(self._path, x.float() * sampled.size, sampled)
        call = _Call(place, x, sampled.velocity, halves, self._off(x, sampled))
        output = self._run(run, call, count, forward)
        if place >= len(self._added):
            return output
        own = zip(self._branch(call, output), self._added[place], strict=True)
        return self._output(call, [tensor + added for tensor, added in own])

    def _follow(self, path: Path, latent: torch.Tensor, sampled: Sampled) -> None:
        """Advances the path to this evaluation; gives it up if that is not possible."""
        self._path = None
        if sampled.euler:
            return
        if path.x is not None:
            guided = self._guided(sampled)
            if guided is None or not path.x.shape == latent.shape == guided.shape:
                return
            if self._follows is None:  # some models return the negative velocity
                step = sampled.level - self._level
                self._follows = bool(((latent - path.x) * guided).sum() * step > 0)
            if not self._follows:
                return
            path.end(path.x - self._level * guided)
        path.begin(latent, sampled.level)
        self._path, self._level = path, sampled.level

    def _guided(self, sampled: Sampled) -> torch.Tensor | None:
        """The velocity by which the last evaluation moved the path; None if unknown."""
        velocities = [branch[0].float() for branch in self._last]
        if sampled.guidance is None or len(velocities) not in (1, 2):
            return None
        if not sampled.guides:
            return velocities[0] if len(velocities) == 1 else None
        together = len(velocities) == 1
        if together and len(velocities[0]) % 2:
            return None
        uncond, cond = velocities[0].chunk(2) if together else velocities[::-1]
        guided = uncond + sampled.guidance * (cond - uncond)
        return torch.cat([guided, guided]) if together else guided

    def _off(self, x: torch.Tensor, sampled: Sampled) -> torch.Tensor | None:
        path = self._path
        if path is None or path.x is None or path.x.shape != x.shape or not sampled.level:
            return None
        return (path.x - x.float() * sampled.size) / sampled.level

    def _run(self, run: Run, call: _Call, count: int, forward: Callable[[], Any]) -> Any:
        place, x = call.place, call.x
        if place < len(self._predicted):
            return run.aside(x.device, lambda: self._output(call, self._predicted[place]))
        if self._predicted:
            return run.aside(x.device, forward)
        if place:
            self._alike = x.shape == self._shape
        else:
            self._shape = (*x.shape,)
        parts = self._parts(2 if call.halves else count)
        self._cached = parts
        if place == 0 and run.skips(parts):
            return run.call_parts(parts, x.device, self._asked(call, forward))
        if place + 1 < count:
            return run.aside(x.device, lambda: self._kept(call, forward()))
        if place + 1 > self._count:
            run.drop(parts)
        return run.call_parts(parts, x.device, self._asked(call, forward))

    def _parts(self, branches: int) -> dict[Hashable, tuple[str, ...]]:
        """The signals with their curve names; branches of different shape are their own signals."""
        own = [("mean", number) for number in range(branches)]
        names = signal_names(branches) if self._alike else own
        return {(name, number, *self._shape): (name,) for name, number in names}

    def _asked(self, call: _Call, forward: Callable[[], Any]) -> OutputCall:
        return OutputCall(
            forward,
            lambda output: self._signals(call, output),
            lambda signals: self._from(call, signals),
        )

    def _kept(self, call: _Call, output: Any) -> Any:
        """Keeps a call's output until the other branches have been computed."""
        self._computed.append(self._branch(call, output))
        return output

    def _branch(self, call: _Call, output: Any) -> Branch:
        leaves, structure = tree_flatten(output, is_leaf=_is_batch)
        self._structures[call.place] = structure, [_Leaf.of(leaf) or leaf for leaf in leaves]
        first, *others = [tensor for leaf in leaves if (tensor := _signal(leaf)) is not None]
        return [call.to_velocity(first), *others]

    def _signals(self, call: _Call, output: Any) -> Residual:
        """The signals, with one tensor per leaf each."""
        self._kept(call, output)
        branches = self._computed
        if call.halves:
            halves = [tensor.chunk(2) for tensor in branches[0]]
            branches = [[first for first, _ in halves], [second for _, second in halves]]
        if not self._alike:
            return tuple(tensor for branch in branches for tensor in branch)
        every = [signals_of(tensors) for tensors in zip(*branches, strict=True)]
        return tuple(tensor for signal in zip(*every, strict=True) for tensor in signal)

    def _from(self, call: _Call, signals: Residual) -> Any:
        """The predicted or mended output of the call; keeps those of the next calls."""
        leaves = sum(isinstance(leaf, _Leaf) for leaf in self._structures[call.place][1])
        each = [signals[leaf::leaves] for leaf in range(leaves)]
        if self._alike:
            each = [velocities_of(signal) for signal in each]
        branches = [list(tensors) for tensors in zip(*each, strict=True)]
        if call.halves:
            branches = [[torch.cat(pair) for pair in zip(*branches, strict=True)]]
        if not self._computed:
            self._predicted = branches
        elif call.place:  # earlier calls have returned, so the next evaluation is mended instead
            self._mending = [
                [new - old for new, old in zip(*both, strict=True)]
                for both in zip(branches, self._computed, strict=True)
            ]
            branches = self._computed
        return self._output(call, branches[call.place])

    def _output(self, call: _Call, branch: Branch) -> Any:
        structure, leaves = self._structures[call.place]
        tensors = iter([call.from_velocity(branch[0]), *branch[1:]])
        made = [leaf.made(next(tensors)) if isinstance(leaf, _Leaf) else leaf for leaf in leaves]
        return tree_unflatten(made, structure)


class _Leaf(Enum):
    """Stands for a predicted part of an output: a tensor, or a list with one tensor per sample."""

    TENSOR = "tensor"
    BATCH = "list"

    @classmethod
    def of(cls, leaf: Any) -> "_Leaf | None":
        if _is_batch(leaf):
            return cls.BATCH
        floats = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return cls.TENSOR if floats else None

    def made(self, tensor: torch.Tensor) -> Any:
        return tensor if self is _Leaf.TENSOR else [*tensor]


def _signal(leaf: Any) -> torch.Tensor | None:
    return batch_of(leaf) if _Leaf.of(leaf) else None


def batch_of(value: Any) -> torch.Tensor | None:
    """A tensor as it is, or a list with one per sample as one tensor; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.stack(value) if _is_batch(value) else None


def _is_batch(value: Any) -> bool:
    tensors = isinstance(value, list) and all(isinstance(each, torch.Tensor) for each in value)
    return tensors and len({each.shape for each in value}) == 1
