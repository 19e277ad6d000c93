"""Requests as they were before a proxy passed them on. Knows headers; rpc/forwarded.py knows whose are believed."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from expertmesh.rpc.forwarded import FORWARDED_FOR_KEY, FORWARDED_PROTO_KEY, Proxies

SCHEMES = ("http", "https")


class Forwarded:
    """Puts into the scope which client and scheme ``proxies`` say that a request came from and by."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        await self._app({**scope, **self._before(scope)} if scope["type"] == "http" else scope, receive, send)

    def _before(self, scope: Scope) -> Scope:
        peer, headers = client_of(scope), Headers(scope=scope)
        scheme = headers.get(FORWARDED_PROTO_KEY, "").strip()
        is_told = peer in self._proxies and scheme in SCHEMES
        origin = self._proxies.origin(peer, headers.getlist(FORWARDED_FOR_KEY))
        return {"client": (origin, 0), "scheme": scheme if is_told else scope["scheme"]}


def client_of(scope: Scope) -> str:
    """Return the address that a request came from; empty for a transport without addresses."""
    client = scope.get("client")
    return str(client[0]) if client else ""
