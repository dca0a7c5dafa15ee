"""Block stacks of odd models: streams in a tuple, heads that see other shapes."""

import pytest
import torch
from torch import Tensor, nn

from magcache.blocks.families import Family, find_stack
from magcache.blocks.stack import BlockStack, StackMismatch
from tests.toys import Tenfold, Toy, dry_calls, toy_stack


def tokens(count: int = 2, batch: int = 1) -> Tensor:
    """No two entries alike."""
    return torch.arange(1.0, 1 + batch * count * 3).reshape(batch, count, 3)


def exact(stack: BlockStack, model: nn.Module, x: Tensor, calls: int = 2) -> None:
    """The first call is measured, later ones take the base from an argument: both are exact."""
    for value in range(1, calls + 1):
        full, residual = stack.compute(lambda: model(value * x))  # noqa: B023
        assert residual is not None, stack.problem
        skipped = stack.skip(lambda: model(value * x), residual)  # noqa: B023
        for got, right in zip(skipped, full, strict=True):
            assert torch.equal(got, right)
    assert dry_calls(stack) == 1


class BothDouble(nn.Module):
    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        video, audio = streams
        return 2 * video, 3 * audio


class TwoStreams(nn.Module):
    """Video and audio go through the blocks as one argument, as in LTX-2."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([BothDouble(), BothDouble()])
        self.head, self.audio_head = Tenfold(), Tenfold()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        streams = x, 5 * x[:, :1]
        for block in self.blocks:
            streams = block(streams)
        return self.head(streams[0]), self.audio_head(streams[1])


def test_streams_in_a_tuple_have_a_residual_each() -> None:
    model = TwoStreams()
    exact(BlockStack(model, ["blocks"], ["head", "audio_head"]), model, tokens())


def test_a_stream_without_tokens() -> None:
    model = TwoStreams()
    exact(BlockStack(model, ["blocks"], ["head", "audio_head"]), model, tokens()[:, :0])


class Frames(Toy):
    """Its head sees rows and columns, as Kandinsky's does."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.reshape(x.shape[0], 2, -1, x.shape[-1]))


def test_a_head_that_sees_rows_and_columns() -> None:
    model = Frames()
    exact(toy_stack(model), model, tokens(count=4))


class Flattened(Toy):
    """Its head sees the image's tokens of all samples as one list, as a pixel decoder does."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 1:].reshape(-1, x.shape[-1]))


def test_a_head_that_sees_the_last_tokens_of_all_samples_in_one_list() -> None:
    model = Flattened()
    exact(toy_stack(model), model, tokens(count=4, batch=2))


def test_tokens_without_a_batch() -> None:
    """As in MiniMax H3."""
    model = Toy()
    exact(toy_stack(model), model, tokens()[0])


def test_rows_and_columns_all_the_way() -> None:
    """As in Cosmos-Predict2."""
    model = Toy()
    exact(toy_stack(model), model, tokens(count=4).reshape(1, 2, 2, 3))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = Tenfold()

    def forward(self, pixels: Tensor, x: Tensor) -> Tensor:
        return pixels + self.embed(x)


class WithDecoder(Toy):
    """What is behind the blocks is given the pixels first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Decoder()

    def forward(self, x: Tensor) -> Tensor:
        pixels = x
        for block in self.blocks:
            x = block(x)
        return self.head(pixels, x)


def test_a_head_inside_another_module() -> None:
    model = WithDecoder()
    exact(BlockStack(model, ["blocks"], ["head.embed"]), model, tokens())


class Counting(Toy):
    """If it is strict it refuses to go on without blocks."""

    strict = False

    def forward(self, x: Tensor) -> Tensor:
        if self.strict and not len(self.blocks):
            raise ValueError("2 controls are left")
        return super().forward(x)


def test_a_call_that_fails_before_its_head_is_a_mismatch_and_says_why() -> None:
    """As with HunyuanDiT's ControlNets, whose hints the full call has used up."""
    model = Counting()
    stack = toy_stack(model)
    _, residual = stack.compute(lambda: model(tokens()))
    assert residual is not None
    model.strict = True
    with pytest.raises(StackMismatch, match=r"the model fails without its blocks: .*2 controls"):
        stack.skip(lambda: model(tokens()), residual)
    assert len(model.blocks) == 3


GUESS = (Family("unknown", ("blocks",), ("head",)),)


def test_a_guess_that_misses_a_stream_is_found_out() -> None:
    model = TwoStreams()
    stack = find_stack(model, {}, GUESS)
    output, residual = stack.compute(lambda: model(tokens()))
    assert residual is None
    assert stack.problem == "skipping with the true residual changes the model's output"
    assert torch.equal(output[1], model(tokens())[1])


def test_a_guess_is_tried_once_a_run() -> None:
    model = Toy()
    calls: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: calls.append(args[0]))
    stack = find_stack(model, {}, GUESS)
    for _ in range(2):
        calls.clear()
        for _ in range(3):
            _, residual = stack.compute(lambda: model(tokens()))
            assert residual is not None and torch.equal(residual[0], 7 * tokens())
        assert len(calls) == 3 + 2, "one to measure the base, one to try the skip"
        stack.forget_bases()


def test_a_class_of_the_table_is_not_tried() -> None:
    model = TwoStreams()
    stack = find_stack(model, {"TwoStreams": GUESS[0]})
    assert stack.compute(lambda: model(tokens()))[1] is not None
