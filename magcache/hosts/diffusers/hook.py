"""Lets sessions intercept the calls of models and pipelines, and leaves no trace afterwards.

Python looks up `__call__` on the class, so each intercepted object temporarily gets a subclass of
its own, like a module with parametrizations. A model's forward is wrapped only during a call:
after each pipeline call, accelerate's CPU offload restores the forward that it found, which would
remove a permanent wrapper.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

from .session import Session

_CALLS = "_magcache_calls"
_SESSION = "_magcache_session"
_FORWARD = "forward"
_COMPILED = "_compiled_call_impl"  # the graph of a module that is compiled in place


class ModelCalls:
    """Hands each call of one model to the session that it belongs to.

    All sessions on a model share one instance. So pipelines that share the model, even in several
    threads, do not take part in each other's runs and never see an emptied block list.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sessions: list[Session] = []
        self.model = model
        self._under_way = 0  # number of running calls, in any thread
        self._lock = Lock()
        kind = type(model)
        if vars(model).get(_COMPILED) is not None:  # another class would cause recompilation
            self._leave = self._in_front_of_graph()
            return

        @functools.wraps(kind.__call__)
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or module is not model or not self.sessions:
                return kind.__call__(module, *args, **kwargs)
            if getattr(module, _COMPILED, None) is not None:  # its hooks are part of the graph
                return self._hand(functools.partial(kind.__call__, module), *args, **kwargs)
            with self._wrapped():
                return kind.__call__(module, *args, **kwargs)

        self._leave = _as_subclass(model, {"__call__": call, _CALLS: self})

    def leave(self, session: Session) -> None:
        """Forgets a session; after the last one, restores the model's class.

        If another library has changed the class since, it stays and passes calls on.
        """
        self.sessions.remove(session)
        if not self.sessions:
            self._leave()

    def _in_front_of_graph(self) -> Callable[[], None]:
        """Intercepts calls of a compiled model's graph; returns a function that undoes it."""
        own = vars(self.model)
        graph = own[_COMPILED]

        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self.sessions:
                return graph(*args, **kwargs)
            return self._hand(graph, *args, **kwargs)

        setattr(call, _CALLS, self)
        own[_COMPILED] = call

        def leave() -> None:
            if own.get(_COMPILED) is call:
                own[_COMPILED] = graph

        return leave

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """Wraps the model's forward, inside torch's hooks but outside all other wrappers.

        Writes to the instance's dictionary, because a compiled module forwards attributes.
        """
        own = vars(self.model)
        with self._lock:
            if self._under_way == 0:
                self._before = own.get(_FORWARD)
                self._now = functools.partial(self._hand, self.model.forward)
                own[_FORWARD] = self._now
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                if self._under_way == 0 and own.get(_FORWARD) is self._now:
                    if self._before is None:
                        del own[_FORWARD]
                    else:
                        own[_FORWARD] = self._before

    def _hand(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        forward = functools.partial(original, *args, **kwargs)
        sessions = list(self.sessions)
        session = Session.current.get()
        if session not in sessions:
            session = next((s for s in sessions if s.bare), None)
        if session is not None:
            return session.call(self.model, args, kwargs, forward)
        return sessions[0].expert(self.model).stack.plain(forward) if sessions else forward()


def attach(session: Session) -> None:
    """Lets a session intercept the calls of its models and of its pipeline."""
    for model in (m for e in session.experts for m in (*e.models, *e.controlnets)):
        calls = _calls_of(model) or ModelCalls(model)
        calls.sessions.append(session)
        session.undo.callback(calls.leave, session)
    if session.experts and not session.bare:
        session.undo.callback(_follow(session))


def sessions_on(target: Any, models: Sequence[nn.Module]) -> list[Session]:
    """The sessions on `target` and on these models of it."""
    found = [session for m in models if (calls := _calls_of(m)) for session in calls.sessions]
    if not isinstance(target, nn.Module):
        found = [s for s in found if s.bare or s.target is target]
        followed = getattr(type(target), _SESSION, None)  # remains if the model is replaced
        found += [followed] if followed else []
    return list(dict.fromkeys(found))


def _calls_of(model: nn.Module) -> ModelCalls | None:
    entries = type(model), vars(model).get(_COMPILED)
    calls = next((found for each in entries if (found := getattr(each, _CALLS, None))), None)
    return calls if calls and calls.model is model else None  # a copy has the same class


def _as_subclass(target: Any, body: dict[str, Any]) -> Callable[[], None]:
    """Gives an object a subclass of its class with the same name; returns a function to undo it."""
    kind = type(target)
    names = ("__module__", "__qualname__", "__doc__")
    own = type(kind.__name__, (kind,), {**{name: getattr(kind, name) for name in names}, **body})
    object.__setattr__(target, "__class__", own)  # a compiled module would forward it

    def leave() -> None:
        if type(target) is own:
            object.__setattr__(target, "__class__", kind)

    return leave


def _follow(session: Session) -> Callable[[], None]:
    """Runs each pipeline call as a sampling of the session; returns a function to undo it."""
    pipe = session.target
    kind = type(pipe)
    following = True

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe or not following:
            return kind.__call__(self, *args, **kwargs)
        with session.sampling(_guidance(kind, self, args, kwargs)):
            return kind.__call__(self, *args, **kwargs)

    give_back = _as_subclass(pipe, {"__call__": call, _SESSION: session})

    def leave() -> None:
        nonlocal following
        following = False
        give_back()

    return leave


def _guidance(kind: type, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """The CFG scale of a pipeline call, or None if unknown."""
    try:
        call = inspect.signature(kind.__call__).bind_partial(pipe, *args, **kwargs)
    except TypeError:
        return None  # the pipeline itself will raise a better error
    call.apply_defaults()
    given = call.arguments.get("true_cfg_scale", call.arguments.get("guidance_scale"))
    return float(given) if isinstance(given, int | float) else None
