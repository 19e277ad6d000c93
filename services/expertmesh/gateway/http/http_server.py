"""An HTTP server inside the process's event loop. Knows uvicorn, not what is served."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from expertmesh.gateway.http.connections import BoundedProtocol, ConnectionLimits, Connections
from expertmesh.rpc.sockets import bind, with_port


class HttpServer:
    """Serves ``app`` on ``address`` (host:port, port 0 for a free one); start and drain it in one loop.

    Where it ``shares_port``, so may servers of other processes. ``limits`` are those of its connections. With ``tls``
    it is HTTPS.
    """

    def __init__(
        self,
        address: str,
        app: ASGIApp,
        shares_port: bool = False,
        limits: ConnectionLimits = ConnectionLimits(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = address
        self._scheme = "http" if tls is None else "https"
        self._shares_port = shares_port
        self._server = _Server(
            uvicorn.Config(
                app,
                http=partial(BoundedProtocol, Connections(limits)),  # type: ignore[arg-type]  # it is only called
                log_config=None,
                log_level="critical",  # errors of requests are logged where they are answered
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=limits.keep_alive_seconds,  # type: ignore[arg-type]  # it may be no whole number
                lifespan="off",
                ws="none",
                ssl_context_factory=None if tls is None else lambda config, default: tls,
            )
        )
        self._running: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """Host and port that are bound, as host:port."""
        return with_port(self._address, self._port)

    @property
    def url(self) -> str:
        """Where it is found."""
        return f"{self._scheme}://{self.address}"

    async def start(self) -> None:
        """Bind and serve; ConfigError when the address is taken."""
        socket = bind(self._address, self._shares_port)
        self._port = socket.getsockname()[1]
        self._running = asyncio.create_task(self._server.serve(sockets=[socket]))

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new connections, give running requests ``grace_seconds`` and cancel what is left."""
        if self._running is None:
            return
        self._server.should_exit = True
        await asyncio.wait((self._running,), timeout=grace_seconds)
        requests = tuple(self._server.server_state.tasks)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        self._server.force_exit = True
        await self._running


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield
