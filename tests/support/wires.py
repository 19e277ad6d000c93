"""Wires between a gateway and its servers that change, hold back or swallow what passes through them."""

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from expertmesh.mesh import open_link as opening

CALLS, ANSWERS = "calls", "answers"
# (calls or answers, bytes) -> bytes
Harm = Callable[[str, bytes], bytes]


class Wires:
    """All bytes pass through ``harm``, which may be replaced at any time; ``with`` cuts the wires at its end."""

    def __init__(self, harm: Harm = lambda direction, data: data) -> None:
        self.harm = harm
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Wires":
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._sockets:
            _shut_down(end)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def to(self, address: str) -> str:
        """Lay a wire to the server at ``address`` (host:port); returns the address at its near end."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(listener)
        self._start(self._accept, listener, address)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def through(self, far: socket.socket) -> socket.socket:
        """Lay a wire to a connection; returns its near end."""
        near, end = socket.socketpair()
        near.settimeout(far.gettimeout())
        self._join(end, far)
        return near

    def _accept(self, listener: socket.socket, address: str) -> None:
        host, port = address.rsplit(":", 1)
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                self._join(near, socket.create_connection((host, int(port))))

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        far.settimeout(None)
        self._sockets += [near, far]
        self._start(self._pump, near, far, CALLS)
        self._start(self._pump, far, near, ANSWERS)

    def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(self.harm(direction, data))
        _shut_down(target)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="wire")
        self._threads.append(thread)
        thread.start()


def lay_direct(wires: Wires, monkeypatch: pytest.MonkeyPatch, is_harmed: Callable[[str], bool]) -> None:
    """Have the sockets of direct links to endpoints that are to be harmed go through ``wires``."""
    dial = opening._dial

    def dial_through(offer, endpoint):
        connection = dial(offer, endpoint)
        return wires.through(connection) if is_harmed(endpoint) else connection

    monkeypatch.setattr(opening, "_dial", dial_through)


def turn_bits_over(which: Sequence[str], every: int, min_bytes: int) -> Harm:
    """Make what turns one bit over in the middle of every so-manieth long piece of ``which``."""
    counts = dict.fromkeys((CALLS, ANSWERS), 0)

    def harm(direction: str, data: bytes) -> bytes:
        if direction not in which or len(data) < min_bytes:
            return data
        counts[direction] += 1
        if counts[direction] % every:
            return data
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]

    return harm


def _shut_down(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
