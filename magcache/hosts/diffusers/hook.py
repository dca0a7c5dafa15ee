"""How sessions come to see the calls of a model and of a pipeline, and leave no trace.

Python looks `__call__` up on the class, so each of them gets a subclass of its own for the time
being, as a module with parametrizations does. A model's forward is wrapped for the length of a
call only: accelerate's CPU offload puts back the forward that it has met, after each call of the
pipeline, and with that whatever had been put around it since is gone.
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
_COMPILED = "_compiled_call_impl"  # where a module that is compiled in place keeps its graph


class ModelCalls:
    """The calls of one model, each handed to the session it belongs to.

    One serves all sessions on a model, so that pipelines which share it, also in several threads,
    neither take part in each other's runs nor meet an emptied block list.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sessions: list[Session] = []
        self.model = model
        self._under_way = 0  # calls, of any thread
        self._lock = Lock()
        kind = type(model)
        if vars(model).get(_COMPILED) is not None:  # with another class it would be compiled anew
            self._leave = self._in_front_of_graph()
            return

        @functools.wraps(kind.__call__)
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or module is not model or not self.sessions:
                return kind.__call__(module, *args, **kwargs)
            if getattr(module, _COMPILED, None) is not None:  # hooks are in the graph
                return self._hand(functools.partial(kind.__call__, module), *args, **kwargs)
            with self._wrapped():
                return kind.__call__(module, *args, **kwargs)

        self._leave = _as_subclass(model, {"__call__": call, _CALLS: self})

    def leave(self, session: Session) -> None:
        """Forgets a session, and with the last one goes.

        Where another library has given the model a class since, it stays and passes calls on.
        """
        self.sessions.remove(session)
        if not self.sessions:
            self._leave()

    def _in_front_of_graph(self) -> Callable[[], None]:
        """Stands in front of a compiled model's graph; returns what takes that back."""
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
        """Has the model's forward handed to sessions: inside of torch's hooks, outside all others.

        Written to the instance's dictionary, as a compiled module passes attributes on.
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
    """Puts a session on its models and around its pipeline's calls."""
    for model in (m for e in session.experts for m in (*e.models, *e.controlnets)):
        calls = _calls_of(model) or ModelCalls(model)
        calls.sessions.append(session)
        session.undo.callback(calls.leave, session)
    if session.experts and not session.bare:
        session.undo.callback(_follow(session))


def sessions_on(target: Any, models: Sequence[nn.Module]) -> list[Session]:
    """The sessions that `target` and these models of it take part in."""
    found = [session for m in models if (calls := _calls_of(m)) for session in calls.sessions]
    if not isinstance(target, nn.Module):
        found = [s for s in found if s.bare or s.target is target]
        followed = getattr(type(target), _SESSION, None)  # it stays if the model is exchanged
        found += [followed] if followed else []
    return list(dict.fromkeys(found))


def _calls_of(model: nn.Module) -> ModelCalls | None:
    entries = type(model), vars(model).get(_COMPILED)
    calls = next((found for each in entries if (found := getattr(each, _CALLS, None))), None)
    return calls if calls and calls.model is model else None  # a copy has the class as well


def _as_subclass(target: Any, body: dict[str, Any]) -> Callable[[], None]:
    """Gives an object a subclass of its class, of the same name; returns what takes it back."""
    kind = type(target)
    names = ("__module__", "__qualname__", "__doc__")
    own = type(kind.__name__, (kind,), {**{name: getattr(kind, name) for name in names}, **body})
    object.__setattr__(target, "__class__", own)  # a compiled module would pass it on

    def leave() -> None:
        if type(target) is own:
            object.__setattr__(target, "__class__", kind)

    return leave


def _follow(session: Session) -> Callable[[], None]:
    """Runs each call of the pipeline as a sampling of the session; returns what ends that."""
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
    """The scale of classifier-free guidance in a pipeline's call."""
    try:
        call = inspect.signature(kind.__call__).bind_partial(pipe, *args, **kwargs)
    except TypeError:
        return None  # the pipeline will say it better
    call.apply_defaults()
    given = call.arguments.get("true_cfg_scale", call.arguments.get("guidance_scale"))
    return float(given) if isinstance(given, int | float) else None
