"""A TCP socket of a link over TLS. Knows bytes, neither what they mean nor whose certificate is right."""

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# The most that one record of TLS carries (RFC 8446, section 5.1).
RECORD_BYTES = 1 << 14


class TlsSocket(ssl.SSLSocket):
    """What links do with sockets, done over TLS: gathered sends, flags, reads that end after a while.

    ssl's own socket has none of these. One thread sends and receives, any may shut it down. A wait that takes longer
    than the timeout ends with BlockingIOError, as where the kernel keeps the time (SO_RCVTIMEO).
    """

    _seconds: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Wait for at most so long, None for as long as it takes; the descriptor itself never blocks."""
        self._seconds = value
        super().settimeout(0.0)

    def gettimeout(self) -> float | None:
        """Return how long it waits."""
        return self._seconds

    def shake_hands(self) -> None:
        """Agree on keys, and check certificates; ssl.SSLError when these are not right."""
        self._patiently(lambda: self.do_handshake(), 0)

    def sendmsg(  # type: ignore[override]  # of ssl's own the stubs say that it cannot be called
        self, buffers: Iterable[Any], ancillary: Sequence[Any] = (), flags: int = 0
    ) -> int:
        """Send the beginning of the buffers, a record at most; after BlockingIOError the same has to come again."""
        record = _begin_of(buffers)
        return self._patiently(lambda: self.send(record), flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive what a record holds, and ``buffer`` has room for; 0 at the end."""
        size = nbytes or len(buffer)
        # With a buffer ``read`` counts.
        return self._patiently(lambda: int(self.read(size, buffer)), flags)

    def recvmsg_into(  # type: ignore[override]
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> Any:
        """Receive into one buffer after the other for as long as what has arrived reaches; see ``socket.socket``."""
        total = 0
        for buffer in buffers:
            if total and not self.pending():
                break
            count = self.recv_into(buffer, None, flags)
            total += count
            if count < len(buffer):
                break
        return total, [], 0, None

    def shutdown(self, how: int) -> None:
        """End one direction or both; what still comes stays encrypted, other than with ssl's own socket."""
        socket.socket.shutdown(self, how)

    def _patiently(self, act: Callable[[], T], flags: int) -> T:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                self._await(select.POLLIN, flags)
            except ssl.SSLWantWriteError:
                self._await(select.POLLOUT, flags)

    def _await(self, event: int, flags: int) -> None:
        if flags & socket.MSG_DONTWAIT or not poll(self, event, self._seconds):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def has_read_ahead(connection: socket.socket) -> bool:
    """Whether there is something to be received that no ``poll`` knows of."""
    return isinstance(connection, TlsSocket) and connection.pending() > 0


def poll(connection: socket.socket, events: int, timeout_seconds: float | None) -> bool:
    """Wait until one of ``events`` of select.poll is there; False when none is in time."""
    poller = select.poll()
    poller.register(connection, events)
    return bool(poller.poll(None if timeout_seconds is None else timeout_seconds * 1000))


def _begin_of(buffers: Iterable[Any]) -> memoryview:
    """Return up to a record's worth of bytes, copied only where they lie in pieces."""
    parts: list[memoryview] = []
    missing = RECORD_BYTES
    for buffer in buffers:
        view = memoryview(buffer)
        if view.nbytes and missing:  # what is empty has no bytes to be cast to
            parts.append(view.cast("B")[:missing])
            missing -= len(parts[-1])
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
