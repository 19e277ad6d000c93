"""Other forms of a request that mean the same: HEAD for GET, and a slash at the end. Knows no path."""

from starlette.types import ASGIApp, Receive, Scope, Send


class OtherForms:
    """Middleware: passes requests on in their usual form; the server leaves out the body of a reply to HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        await self._app({**scope, **_usual(scope)} if scope["type"] == "http" else scope, receive, send)


def _usual(scope: Scope) -> dict[str, str]:
    method, path = scope["method"], scope["path"]
    return {"method": "GET" if method == "HEAD" else method, "path": path.rstrip("/") or "/"}
