"""Running models with and without their blocks, each number checked by hand.

The base model `Toy`: 8x by three blocks of 2x, then a head of 10x. With blocks 80x, without them
10x, residual 7x.
"""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from magcache.blocks.stack import BlockStack, Call, StackMismatch, StackNotFound
from tests.toys import (
    Double,
    DoubleInPlace,
    Tenfold,
    Toy,
    block_calls,
    dry_calls,
    tokens,
    toy_stack,
)


def is_all(tensor: Tensor, value: float) -> bool:
    return torch.equal(tensor, torch.full_like(tensor, value))


def residual_of(stack: BlockStack, call: Call) -> Tensor:
    """The residual of a stack with one head."""
    _, residual = stack.compute(call)
    assert residual is not None, stack.problem
    (only,) = residual
    return only


def state(module: nn.Module) -> dict[str, Any]:
    """All that a call could leave behind: attributes, hooks, the modules of each list."""
    found: dict[str, Any] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        attributes = {k: v for k, v in vars(part).items() if k != "calls"}
        held = {k: sorted(map(str, v)) for k, v in attributes.items() if hasattr(v, "__len__")}
        modules = [(k, id(v)) for k, v in part._modules.items()]
        found[name] = ({k: id(v) for k, v in attributes.items()}, held, modules)
    return found


class Sliced(Toy):
    """The head sees some of the tokens."""

    def __init__(self, part: slice) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, self.part])


class Controlled(Toy):
    """A control of 5 is added after each block, in the loop."""

    def forward(self, x: Tensor, control: float = 5.0) -> Tensor:
        for block in self.blocks:
            x = block(x) + control
        return self.head(x)


class TwoHeads(Toy):
    """Two streams, the second with one list of blocks more, or one stream seen by both heads."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.more_blocks = nn.ModuleList([Double()])
        self.other_head = Tenfold()
        self.shared = shared

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = x if self.shared else y
        both = torch.cat([x, y], dim=1)
        for block in self.blocks:
            both = block(both)
        x, y = both.split([x.shape[1], y.shape[1]], dim=1)
        if self.shared:
            return self.head(x), self.other_head(x)
        for block in self.more_blocks:
            y = block(y)
        return self.head(x), self.other_head(y)

    def stack(self) -> BlockStack:
        return BlockStack(self, ["blocks", "more_blocks"], ["head", "other_head"])


class Reshaped(Toy):
    """The blocks see windows of the tokens, the head sees 3 times the whole."""

    def forward(self, x: Tensor) -> Tensor:
        whole = x.shape
        windows = x.reshape(-1, 1, whole[-1])
        for block in self.blocks:
            windows = block(windows)
        return self.head(3 * windows.reshape(whole))


class Mixed(Toy):
    """Blocks in bfloat16, the head in float32."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.bfloat16()
        for block in self.blocks:
            x = block(x)
        return self.head(x.float())


class NeedsBlocks(Toy):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        return self.head(x)


class Recurrent(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head(super().forward(x)))


class Headless(Toy):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class WithKeywords(Toy):
    """Block and head get everything by keyword; the block a mask and a scale besides."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([KeywordDouble() for _ in range(3)])

    def forward(self, *, x: Tensor) -> Tensor:  # type: ignore[override]
        for block in self.blocks:
            x = block(mask=torch.ones(1, 2, dtype=torch.bool), scale=1.0, x=x)
        return self.head(x=x)


class KeywordDouble(Double):
    def forward(self, *, x: Tensor, mask: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        self.calls += 1
        return 2 * scale * x


@pytest.mark.parametrize("block", [Double, DoubleInPlace])
def test_compute_gives_output_and_residual(block: type[Double]) -> None:
    model = Toy(block)
    stack = toy_stack(model)
    for value in (1.0, 3.0):  # the first call learns the base, the second uses what it learned
        output, residual = stack.compute(lambda: model(tokens(value)))  # noqa: B023
        assert is_all(output, 80 * value)
        assert residual is not None and is_all(residual[0], 7 * value)
        assert residual[0].shape == (1, 2, 3)
    assert dry_calls(stack) == 1 and stack.problem is None


def test_blocks_that_write_in_place_leave_an_older_residual_alone() -> None:
    model = Toy(DoubleInPlace)
    stack = toy_stack(model)
    kept = [residual_of(stack, lambda v=v: model(tokens(v))) for v in (1.0, 2.0, 3.0)]
    assert [is_all(r, 7 * v) for r, v in zip(kept, (1.0, 2.0, 3.0), strict=True)] == [True] * 3


def test_a_head_that_writes_in_place_changes_neither_residual_nor_prediction() -> None:
    model = Toy()
    model.head = DoubleInPlace()
    stack = toy_stack(model)
    for _ in range(2):
        residual = residual_of(stack, lambda: model(tokens()))
        assert is_all(residual, 7)
        assert is_all(stack.skip(lambda: model(tokens()), (residual,)), 16)
        assert is_all(residual, 7)


def test_skip_adds_the_residual_and_calls_no_block() -> None:
    model = Toy()
    output = toy_stack(model).skip(lambda: model(tokens()), (tokens(0.5),))
    assert is_all(output, 15)
    assert block_calls(model) == 0


def test_skip_leaves_the_callers_input_alone() -> None:
    """Without blocks it is the head's input, to which the residual is added."""
    model, x = Toy(), tokens()
    toy_stack(model).skip(lambda: model(x), (tokens(7),))
    assert is_all(x, 1)


@pytest.mark.parametrize("block", [Double, DoubleInPlace])
def test_skip_with_the_exact_residual_is_the_full_output(block: type[Double]) -> None:
    model = Toy(block)
    stack = toy_stack(model)
    full, residual = stack.compute(lambda: model(tokens(3.0)))
    assert residual is not None
    assert torch.equal(stack.skip(lambda: model(tokens(3.0)), residual), full)


def test_compute_returns_bit_for_bit_what_a_plain_call_returns() -> None:
    torch.manual_seed(0)
    blocks = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    model = Toy()
    model.blocks, model.head = nn.ModuleList(blocks), nn.Linear(8, 8)
    model.eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        plain = model(x)
        stack = toy_stack(model)
        for _ in range(2):
            assert torch.equal(stack.compute(lambda: model(x))[0], plain)


def test_each_block_is_called_once_a_compute_and_never_for_the_base() -> None:
    model = Toy()
    stack = toy_stack(model)
    for calls in (3, 6):
        stack.compute(lambda: model(tokens()))
        assert block_calls(model) == calls


@pytest.mark.parametrize("part", [slice(0, 2), slice(-2, None)], ids=["head slice", "tail slice"])
def test_a_head_that_sees_fewer_tokens(part: slice) -> None:
    model = Sliced(part)
    stack = toy_stack(model)
    x = torch.arange(5.0).view(1, 5, 1)
    for shift in (0, 10):
        residual = residual_of(stack, lambda: model(x + shift))  # noqa: B023
        assert torch.equal(residual, 7 * (x + shift)[:, part])
        assert torch.equal(
            stack.skip(lambda: model(x + shift), (residual,)),  # noqa: B023
            80 * (x + shift)[:, part],
        )
    assert dry_calls(stack) == 1


@pytest.mark.parametrize("call", [1, 2])
def test_a_residual_keeps_no_more_memory_than_its_own(call: int) -> None:
    """Of 100 tokens the head sees 2 of 4 channels in float32: 32 bytes."""
    model = Sliced(slice(-2, None))
    stack = toy_stack(model)
    kept = [residual_of(stack, lambda: model(tokens(1, 100, 4))) for _ in range(call)]
    assert kept[-1].untyped_storage().nbytes() == 32


def test_a_slice_from_the_middle_pays_for_a_dry_call_each_time() -> None:
    model = Sliced(slice(1, 3))
    stack = toy_stack(model)
    x = torch.arange(5.0).view(1, 5, 1)
    for calls in (1, 2):
        assert torch.equal(residual_of(stack, lambda: model(x)), 7 * x[:, 1:3])
        assert dry_calls(stack) == calls


def test_what_the_loop_adds_is_part_of_the_residual() -> None:
    # 1 → 2 + 5 → 14 + 5 → 38 + 5 = 43 tokens, 42 more than without the loop.
    model = Controlled()
    stack = toy_stack(model)
    for _ in range(2):
        residual = residual_of(stack, lambda: model(tokens()))
        assert is_all(residual, 42)
        assert is_all(stack.skip(lambda: model(tokens()), (residual,)), 430)


def test_two_streams_have_a_residual_each() -> None:
    model = TwoHeads()
    stack = model.stack()
    x, y = tokens(1.0, count=2), tokens(10.0, count=3)
    for _ in range(2):
        full, residual = stack.compute(lambda: model(x, y))
        assert residual is not None
        assert is_all(residual[0], 7) and residual[0].shape == (1, 2, 3)
        assert is_all(residual[1], 150) and residual[1].shape == (1, 3, 3)  # 10 · 2⁴ - 10
        skipped = stack.skip(lambda: model(x, y), residual)
        assert all(torch.equal(a, b) for a, b in zip(skipped, full, strict=True))
    assert dry_calls(stack) == 1
    assert stack.depth == 4


def test_a_first_head_that_writes_in_place_before_the_second_is_reached() -> None:
    model = TwoHeads()
    model.head = DoubleInPlace()
    stack = model.stack()
    for _ in range(2):
        _, residual = stack.compute(lambda: model(tokens(), tokens(10)))
        assert residual is not None and is_all(residual[0], 7) and is_all(residual[1], 150)
    assert dry_calls(stack) == 1


class OneHidden(TwoHeads):
    """Of two heads' bases the arguments show the first only: the other head sees 3 times its."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        return self.head(x), self.other_head(3 * x)


def test_one_base_that_no_argument_shows_is_enough_to_measure_both() -> None:
    model = OneHidden()
    stack = BlockStack(model, ["blocks"], ["head", "other_head"])
    for dry in (1, 2):
        _, residual = stack.compute(lambda: model(tokens(), tokens()))
        assert residual is not None and is_all(residual[0], 7) and is_all(residual[1], 21)
        assert dry_calls(stack) == dry


def test_two_heads_may_see_the_same_tokens() -> None:
    model = TwoHeads(shared=True)
    model.blocks = nn.ModuleList([Double(), Double()])
    stack = BlockStack(model, ["blocks"], ["head", "other_head"])
    for _ in range(2):
        _, residual = stack.compute(lambda: model(tokens(), tokens()))
        assert residual is not None and all(is_all(r, 3) for r in residual)


def test_a_base_that_no_argument_shows_is_measured_each_time() -> None:
    model = Reshaped()
    stack = toy_stack(model)
    for dry, value in ((1, 1.0), (2, 2.0), (3, 4.0)):
        output, residual = stack.compute(lambda: model(tokens(value)))  # noqa: B023
        assert is_all(output, 240 * value)
        assert residual is not None and is_all(residual[0], 21 * value)  # 3 · 8 - 3
        assert dry_calls(stack) == dry


def test_a_new_shape_is_learned_once() -> None:
    model = Toy()
    stack = toy_stack(model)
    for count, dry in ((2, 1), (4, 2), (2, 2), (4, 2)):
        assert is_all(residual_of(stack, lambda: model(tokens(1, count))), 7)  # noqa: B023
        assert dry_calls(stack) == dry


def test_keyword_arguments() -> None:
    model = WithKeywords()
    stack = toy_stack(model)
    for dry in (1, 1):
        residual = residual_of(stack, lambda: model(x=tokens()))
        assert is_all(residual, 7) and dry_calls(stack) == dry
        assert is_all(stack.skip(lambda: model(x=tokens()), (residual,)), 80)


def test_residual_is_kept_in_the_dtype_of_the_blocks() -> None:
    model = Mixed()
    stack = toy_stack(model)
    for _ in range(2):
        residual = residual_of(stack, lambda: model(tokens(1.5)))
        assert residual.dtype == torch.bfloat16 and is_all(residual, 10.5)
        output = stack.skip(lambda: model(tokens(1.5)), (residual,))
        assert output.dtype == torch.float32 and is_all(output, 120)
    assert dry_calls(stack) == 1


def test_a_forward_in_inference_mode() -> None:
    model = Toy()
    stack = toy_stack(model)
    forward = torch.inference_mode()(model)
    for _ in range(2):
        assert is_all(residual_of(stack, lambda: forward(tokens())), 7)


def test_residuals_have_no_gradient() -> None:
    model = Toy()
    model.blocks.append(nn.Linear(3, 3))
    stack = toy_stack(model)
    for _ in range(2):
        assert not residual_of(stack, lambda: model(tokens())).requires_grad


def test_the_first_block_may_be_asked_for_its_attributes() -> None:
    class Curious(Toy):
        def forward(self, x: Tensor) -> Tensor:
            assert all(isinstance(block.calls, int) for block in self.blocks)
            return super().forward(x)

    model = Curious()
    assert is_all(residual_of(toy_stack(model), lambda: model(tokens())), 7)


def run_quietly(call: Callable[[], Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        call()


def fail(*_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("where", ["blocks.0", "blocks.1", "head"])
@pytest.mark.parametrize("learned", [False, True])
def test_an_exception_leaves_the_module_as_it_was(where: str, learned: bool) -> None:
    model = Toy()
    stack = toy_stack(model)
    if learned:
        stack.compute(lambda: model(tokens()))
    model.get_submodule(where).register_forward_hook(fail)
    before = state(model)
    run_quietly(lambda: stack.compute(lambda: model(tokens())))
    assert state(model) == before
    if where == "head":
        run_quietly(lambda: stack.skip(lambda: model(tokens()), (tokens(),)))
    else:
        assert is_all(stack.skip(lambda: model(tokens()), (tokens(),)), 20)
    assert state(model) == before


def test_the_state_compared_above_notices_hooks_and_swapped_blocks() -> None:
    model = Toy()
    before = state(model)
    handle = model.head.register_forward_pre_hook(fail)
    assert state(model) != before
    handle.remove()
    assert state(model) == before
    model.blocks._modules = dict(model.blocks._modules)
    assert state(model) != before


def test_calls_leave_the_module_as_it_was() -> None:
    model = TwoHeads()
    stack, before = model.stack(), state(model)
    call = lambda: model(tokens(), tokens())  # noqa: E731
    for _ in range(2):
        _, residual = stack.compute(call)
        assert state(model) == before
        assert residual is not None
        stack.skip(call, residual)
        assert state(model) == before
    assert list(model.state_dict()) == []


def test_after_an_exception_the_next_compute_is_right() -> None:
    model = Toy()
    stack = toy_stack(model)
    handle = model.blocks[1].register_forward_hook(fail)
    run_quietly(lambda: stack.compute(lambda: model(tokens())))
    handle.remove()
    assert is_all(residual_of(stack, lambda: model(tokens())), 7)


def test_a_residual_of_another_shape_is_a_mismatch() -> None:
    model = Toy()
    stack, before = toy_stack(model), state(model)
    with pytest.raises(StackMismatch, match=r"\(1, 5, 3\) does not fit the head's \(1, 2, 3\)"):
        stack.skip(lambda: model(tokens()), (tokens(count=5),))
    assert state(model) == before
    assert is_all(stack.compute(lambda: model(tokens()))[0], 80)


def test_a_residual_is_not_broadcast() -> None:
    model = Toy()
    with pytest.raises(StackMismatch):
        toy_stack(model).skip(lambda: model(tokens(batch=2)), (tokens(batch=1),))


@pytest.mark.parametrize(
    ("model", "value", "problem"),
    [
        (NeedsBlocks, 20, "the model fails without its blocks: IndexError"),
        (Recurrent, 8000, "a head is called more than once"),
        (Headless, 8, "the head was not called"),
    ],
)
def test_a_model_that_does_not_fit_is_computed_and_says_why(
    model: type[Toy], value: float, problem: str
) -> None:
    module = model()
    stack, before = toy_stack(module), state(module)
    for _ in range(2):
        output, residual = stack.compute(lambda: module(tokens()))
        assert is_all(output, value) and residual is None
        assert stack.problem and stack.problem.startswith(problem)
        assert state(module) == before


class HeadOnlyBehindBlocks(Toy):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x) if len(self.blocks) else x


class AnotherShapeWithoutBlocks(Toy):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x) if len(self.blocks) else self.head(x[:, :1])


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (HeadOnlyBehindBlocks, "the model does not reach its head without its blocks"),
        (AnotherShapeWithoutBlocks, "the head sees another shape without the blocks"),
    ],
)
def test_a_model_that_does_otherwise_without_blocks(model: type[Toy], problem: str) -> None:
    module = model()
    stack = toy_stack(module)
    output, residual = stack.compute(lambda: module(tokens()))
    assert is_all(output, 80) and residual is None and stack.problem == problem


class Cropping(TwoHeads):
    """Both heads see as many tokens as a setting says that no block is given."""

    keep = 2

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, : self.keep]), self.other_head(x[:, : self.keep])


def test_a_head_that_changes_its_shape_is_noticed_and_learned_anew() -> None:
    model = Cropping()
    stack = BlockStack(model, ["blocks"], ["head", "other_head"])
    call = lambda: model(tokens(count=4), tokens())  # noqa: E731
    assert stack.compute(call)[1] is not None
    model.keep = 3
    output, residual = stack.compute(call)
    assert is_all(output[0], 80) and residual is None
    assert stack.problem == "the shape of the head's input changed"
    _, residual = stack.compute(call)
    assert residual is not None and [r.shape[1] for r in residual] == [3, 3]
    assert stack.problem is None and is_all(residual[1], 7)


@pytest.mark.parametrize(
    ("lists", "heads", "message"),
    [
        (["layers"], ["head"], "Toy has no block list named layers"),
        (["layers", "stages"], ["head"], "no block list named layers or stages"),
        (["head"], ["head"], "no block list named head"),
        (["blocks"], ["norm_out"], "Toy has no head named norm_out"),
        (["blocks"], ["head", "norm_out"], "no head named head and norm_out"),
        (["blocks"], [], "Toy has no head"),
    ],
)
def test_missing_lists_and_heads_are_named(
    lists: list[str], heads: list[str], message: str
) -> None:
    with pytest.raises(StackNotFound, match=message):
        BlockStack(Toy(), lists, heads)


def test_an_empty_list_is_no_list() -> None:
    model = Toy()
    model.blocks = nn.ModuleList()
    with pytest.raises(StackNotFound, match="no block list named blocks"):
        toy_stack(model)


def test_an_absent_second_list_is_left_out() -> None:
    model = Toy()
    stack = BlockStack(model, ["blocks", "single_blocks"], ["head"])
    assert stack.depth == 3
    assert is_all(residual_of(stack, lambda: model(tokens())), 7)


def test_two_threads_on_one_module_take_turns() -> None:
    model = Toy()
    stacks = [toy_stack(model), toy_stack(model)]
    wrong: list[str] = []

    def compute() -> None:
        for _ in range(50):
            output, residual = stacks[0].compute(lambda: model(tokens()))
            if not is_all(output, 80) or residual is None or not is_all(residual[0], 7):
                wrong.append("compute")

    def skip() -> None:
        for _ in range(50):
            if not is_all(stacks[1].skip(lambda: model(tokens()), (tokens(2),)), 30):
                wrong.append("skip")

    threads = [threading.Thread(target=target) for target in (compute, skip, compute, skip)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("waiting", ["plain", "compute", "skip"])
def test_a_thread_waits_while_another_is_inside_a_call(waiting: str) -> None:
    model = Toy()
    stack, other = toy_stack(model), toy_stack(model)
    inside, go_on, order = threading.Event(), threading.Event(), []

    def slow() -> Tensor:
        inside.set()
        assert go_on.wait(5)
        order.append("first")
        return model(tokens())

    def second() -> None:
        inside.wait(5)
        call = lambda: order.append("second") or model(tokens())  # noqa: E731
        getattr(other, waiting)(call, *([(tokens(),)] if waiting == "skip" else []))

    threads = [
        threading.Thread(target=lambda: stack.skip(slow, (tokens(),))),
        threading.Thread(target=second),
    ]
    for thread in threads:
        thread.start()
    assert inside.wait(5)
    threads[1].join(0.1)
    assert threads[1].is_alive() and order == []
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert order[:2] == ["first", "second"]


def test_a_waiting_thread_does_not_wipe_out_a_problem() -> None:
    model = Recurrent()
    stack = toy_stack(model)
    other = threading.Thread(target=lambda: stack.compute(lambda: None))

    def call() -> Tensor:
        output = model(tokens())
        other.start()
        other.join(0.05)
        return output

    assert stack.compute(call)[1] is None
    other.join(5)


def compute_once(stack: BlockStack, model: nn.Module) -> list[Tensor]:
    x = tokens()
    output, residual = stack.compute(lambda: model(x))
    assert residual is not None
    return [x, output, *residual]


def test_a_stack_keeps_nothing_of_a_call() -> None:
    model = Toy()
    stack = toy_stack(model)
    for _ in range(2):
        seen = [weakref.ref(tensor) for tensor in compute_once(stack, model)]
        gc.collect()
        assert [ref() for ref in seen] == [None] * 3


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


def test_compiled_blocks_are_compiled_once_and_run_as_one_graph() -> None:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model = Toy()
    model.blocks = nn.ModuleList([Weighted() for _ in range(3)])
    x = tokens()
    with torch.no_grad():
        plain = model(x)
        for block in model.blocks:
            block.compile(backend=backend, fullgraph=True)
        assert torch.equal(model(x), plain)
        compiled = len(graphs)
        stack = toy_stack(model)
        for _ in range(3):
            output, residual = stack.compute(lambda: model(x))
            assert residual is not None and torch.equal(output, plain)
            assert torch.allclose(stack.skip(lambda: model(x), residual), plain)
        assert torch.equal(model(x), plain)
    assert compiled >= 1 and len(graphs) == compiled
    torch._dynamo.reset()
