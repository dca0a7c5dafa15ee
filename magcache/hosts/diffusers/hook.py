"""How sessions come to see the calls of a transformer and of a pipeline, and leave no trace."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from ...blocks import plain_module
from .session import Session

NAME = "magcache"
_SESSION = "_magcache_session"


class TransformerHook(ModelHook):
    """diffusers' own extension point around a forward: hands each call to its session.

    One hook serves all sessions on a transformer, so that pipelines which share it, also in
    several threads, neither take part in each other's runs nor meet an emptied block list.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.sessions: list[Session] = []
        self._transformer = transformer
        self._had_forward = "forward" in vars(transformer)
        self._was_plain = not hasattr(transformer, "_diffusers_hook")
        self._registry = HookRegistry.check_if_exists_or_initialize(transformer)
        self._registry.register_hook(self, NAME)
        self._wrapped = transformer.forward

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Runs one model call."""
        original = self.fn_ref.original_forward
        assert original is not None  # set by the registry, since there is a new_forward
        return _handed(self.sessions, self._transformer, original, args, kwargs)

    def leave(self, session: Session) -> None:
        """Forgets a session, and with the last one goes.

        Where another library has wrapped the forward since, it stays and passes calls on.
        """
        self.sessions.remove(session)
        if self.sessions or self._registry.get_hook(NAME) is not self:
            return
        above = self._registry._fn_refs[self._registry._hook_order.index(NAME) + 1 :]
        if not above and vars(self._transformer).get("forward") is not self._wrapped:
            return
        kept = above[0].forward if above and above[0].original_forward is not None else None
        self._registry.remove_hook(NAME, recurse=False)
        if kept is not None:  # the registry expects a hook above to have no forward of its own
            above[0].forward, above[0].original_forward = kept, self.fn_ref.original_forward
        if not self._registry.hooks and not self._had_forward:
            del self._transformer.forward
        if not self._registry.hooks and self._was_plain:
            del self._transformer._diffusers_hook


class CompiledHook:
    """Stands in front of a model that is compiled as a whole, so that no graph is added."""

    def __init__(self, model: nn.Module) -> None:
        self.sessions: list[Session] = []
        self._model = model
        self._entry = _compiled_entry(model)
        self._compiled = getattr(model, self._entry)
        self._own = self._call
        setattr(model, self._entry, self._own)

    def leave(self, session: Session) -> None:
        """Forgets a session, and with the last one goes."""
        self.sessions.remove(session)
        if not self.sessions and vars(self._model).get(self._entry) is self._own:
            setattr(self._model, self._entry, self._compiled)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return _handed(self.sessions, self._model, self._compiled, args, kwargs)


def _compiled_entry(model: nn.Module) -> str:
    """The attribute that calls a compiled model's graph; "" where it is not compiled."""
    if plain_module(model) is not model:
        return "forward"
    compiled = getattr(model, "_compiled_call_impl", None) is not None
    return "_compiled_call_impl" if compiled else ""


def _handed(
    sessions: Sequence[Session],
    model: nn.Module,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs a model call, by the session it belongs to."""
    forward = functools.partial(original, *args, **kwargs)
    if torch.compiler.is_compiling() or not sessions:
        return forward()
    session = Session.current.get()
    if session not in sessions:
        session = next((s for s in sessions if s.bare), None)
    if session is None:
        return sessions[0].expert(model).stack.plain(forward)
    return session.call(model, args, kwargs, forward)


def attach(session: Session) -> None:
    """Puts a session on its models and around its pipeline's calls."""
    for model in (m for e in session.experts for m in (*e.models, *e.controlnets)):
        kind = CompiledHook if _compiled_entry(model) else TransformerHook
        hook = _hook_of(model) or kind(model)
        hook.sessions.append(session)
        session.undo.callback(hook.leave, session)
    if session.experts and not session.bare:
        session.undo.callback(_follow(session))


def sessions_on(target: Any, transformers: Sequence[nn.Module]) -> list[Session]:
    """The sessions that `target` and these transformers of it take part in."""
    hooks = [hook for transformer in transformers if (hook := _hook_of(transformer))]
    found = [session for hook in hooks for session in hook.sessions]
    if not isinstance(target, nn.Module):
        found = [s for s in found if s.bare or s.target is target]
        followed = getattr(type(target), _SESSION, None)  # it stays if the model is exchanged
        found += [followed] if followed else []
    return list(dict.fromkeys(found))


def _hook_of(transformer: nn.Module) -> TransformerHook | CompiledHook | None:
    entry = vars(transformer).get(_compiled_entry(transformer))
    compiled = getattr(entry, "__self__", None)
    if isinstance(compiled, CompiledHook):
        return compiled
    registry = getattr(transformer, "_diffusers_hook", None)
    hook = registry.get_hook(NAME) if registry else None
    return hook if isinstance(hook, TransformerHook) else None


def _follow(session: Session) -> Callable[[], None]:
    """Runs each call of the pipeline as a sampling of the session; returns what ends that.

    Python looks `__call__` up on the class, so the pipeline gets a subclass of its own.
    """
    pipe = session.target
    kind = type(pipe)
    following = True

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe or not following:
            return kind.__call__(self, *args, **kwargs)
        with session.sampling(_guidance(kind, self, args, kwargs)):
            return kind.__call__(self, *args, **kwargs)

    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(kind, name) for name in names}
    followed = type(kind.__name__, (kind,), {**body, "__call__": call, _SESSION: session})
    pipe.__class__ = followed

    def leave() -> None:
        nonlocal following
        following = False
        if type(pipe) is followed:
            pipe.__class__ = kind

    return leave


def _guidance(kind: type, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """The scale of classifier-free guidance in a pipeline's call."""
    try:
        call = inspect.signature(kind.__call__).bind_partial(pipe, *args, **kwargs)
    except TypeError:
        return None  # the pipeline will say it better
    call.apply_defaults()
    given = call.arguments.get("true_cfg_scale", call.arguments.get("guidance_scale"))
    return float(given) if isinstance(given, int | float) else None
