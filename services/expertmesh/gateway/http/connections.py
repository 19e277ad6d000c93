"""How many connections there may be, and how long each may keep others waiting. Knows uvicorn's, no request."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from expertmesh.gateway.rare_log import RareLog

_log = logging.getLogger(__name__)

# Beyond those that work: so that probes are let in, and others told that there is no room.
NUM_SPARE = 16
MAX_HEADER_BYTES = 64 * 2**10


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds of a port: requests that are answered at once, and seconds.

    Of a connection that idles after a reply; until the headers of a request are complete, from connecting or their
    first byte on; and until somebody reads on whose reply does not fit into the network's buffers.
    """

    max_connections: int = 1000
    keep_alive_seconds: float = 75.0
    header_seconds: float = 10.0
    unread_seconds: float = 60.0


class Connections:
    """The open connections of a port. Without room for another, one that waits for a request makes place."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[BoundedProtocol] = set()
        self._waiting: dict[BoundedProtocol, None] = {}
        self._rare_log = RareLog(_log)

    def enter(self, connection: "BoundedProtocol") -> None:
        """Take a connection in, and close the one that has waited longest, or this one, where there is no room."""
        self._open.add(connection)
        if len(self._open) > self.limits.max_connections + NUM_SPARE:
            self._rare_log.warning(
                "%d connections are open, as many as --max-connections allows: %s",
                len(self._open) - 1,
                "those that wait for a request are closed for new ones" if self._waiting else "new ones are closed",
            )
            next(iter(self._waiting), connection).give_up()
        if connection in self._open:
            self.wait(connection)

    def leave(self, connection: "BoundedProtocol") -> None:
        """Forget a connection; nothing happens when it has left before."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def wait(self, connection: "BoundedProtocol") -> None:
        """Note that a connection waits for its next request from now on."""
        self._waiting[connection] = None

    def work(self, connection: "BoundedProtocol") -> None:
        """Note that a connection's request is answered."""
        self._waiting.pop(connection, None)


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed when its client takes too long to ask or to read."""

    def __init__(self, connections: Connections, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._connections = connections
        self._asking: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._is_in_body = False
        self._num_header_bytes = 0

    @property
    def _is_working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Wait for a request, unless there is no room."""
        super().connection_made(transport)
        self._expect_headers()
        self._connections.enter(self)

    def data_received(self, data: bytes) -> None:
        """Take what a client sends; while that is no whole request it has little time, and little room."""
        super().data_received(data)
        if self._is_working:
            self._stop_expecting()
            self._connections.work(self)
        elif not self.transport.is_closing():
            self._expect_headers()
            self._num_header_bytes += 0 if self._is_in_body else len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES:
                self.send_400_response(f"The headers are longer than {MAX_HEADER_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._is_in_body, self._num_header_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note the end of a request's body."""
        self._is_in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or answer the one that has come already."""
        super().on_response_complete()
        if not self._is_working and not self.transport.is_closing():
            self._connections.wait(self)

    def pause_writing(self) -> None:
        """Write no more before the client reads; it has a while for that."""
        super().pause_writing()
        seconds = self._connections.limits.unread_seconds
        self._unread = self._unread or self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        self._stop_waiting_for_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind."""
        super().connection_lost(exc)
        self._stop_expecting()
        self._stop_waiting_for_reader()
        self._connections.leave(self)

    def give_up(self) -> None:
        """Close the connection, unless its request is being answered."""
        if not self._is_working:
            self._connections.leave(self)
            self.transport.close()

    def _expect_headers(self) -> None:
        seconds = self._connections.limits.header_seconds
        self._asking = self._asking or self.loop.call_later(seconds, self.give_up)

    def _stop_expecting(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
