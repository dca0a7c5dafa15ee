"""Middleware of the app's server that refuses requests for foreign host names."""

from collections.abc import Set

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .address import is_known


class KnownHosts:
    """Answers only requests whose Host header is known; see `is_known`.

    Starlette's TrustedHostMiddleware only knows a list of names, and no IP addresses in general.
    """

    def __init__(self, app: ASGIApp, names: Set[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] in ("http", "websocket")
        if asked and not is_known(Headers(scope=scope).get("host", ""), self._names):
            text = "MagCache does not answer to this host name: use the computer's IP address."
            await PlainTextResponse(text, status_code=400)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
