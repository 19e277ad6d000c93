"""Wires to servers that change, hold back, swallow or cut what passes through them. Knows bytes, not what they mean."""

import socket
import threading
from collections.abc import Callable, Set
from contextlib import suppress
from functools import partial
from itertools import chain

CALLS, ANSWERS = "calls", "answers"
# (calls or answers, bytes) -> bytes
Harm = Callable[[str, bytes], bytes]

# Who was told of a further port comes at once or not at all.
FURTHER_SECONDS = 5.0


class CutError(Exception):
    """A harm has a wire cut once ``rest`` was sent."""

    def __init__(self, rest: bytes) -> None:
        super().__init__("the wire is cut")
        self.rest = rest


def pass_on(direction: str, data: bytes) -> bytes:
    """Do no harm."""
    return data


class Wires:
    """All bytes pass through ``harm``, which may be replaced at any time; ``with`` cuts the wires at its end.

    Near ends that are listened at are on ``host``. Each wire has a thread for either direction.
    """

    def __init__(self, harm: Harm = pass_on, host: str = "127.0.0.1") -> None:
        self.harm = harm
        self._host = host
        self._lock = threading.Lock()
        self._is_closed = False
        self._listeners: list[socket.socket] = []
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._abandoned: set[socket.socket] = set()
        self._wired_ports: set[int] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Wires":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
            for end in self._sockets():
                _shut_down(end)
        for thread in self._threads:  # those that begin meanwhile are in it, too
            thread.join()
        for end in self._sockets():
            end.close()

    def to(self, address: str, further_ports: Callable[[], Set[int]] = frozenset) -> str:
        """Lay a wire to the server at ``address`` (host:port); returns the address at its near end.

        Any answer may tell of a port that the server just began to listen on, so before it is handed on, a wire for one
        caller is laid to each of ``further_ports``, with the same port at its near end.
        """
        host, port = address.rsplit(":", 1)
        self._wired_ports.add(int(port))  # there is one already
        listener = self._listen(0)
        lay_further = partial(self._lay_further, host, further_ports)
        self._start(self._accept_all, listener, (host, int(port)), lay_further)
        return f"{self._host}:{listener.getsockname()[1]}"

    def through(self, far: socket.socket) -> socket.socket:
        """Lay a wire to a connection; returns its near end."""
        near, end = socket.socketpair()
        near.settimeout(far.gettimeout())
        self._join(end, far)
        return near

    def cut(self) -> None:
        """End every connection there is; others may come."""
        with self._lock:
            self._abandoned.clear()
            for end in chain(*self._pairs):
                _shut_down(end)

    def abandon(self) -> None:
        """Have the far ends of all connections vanish while the near ones stay open and hear nothing."""
        with self._lock:
            for near, far in self._pairs:
                self._abandoned.add(near)
                _shut_down(far)

    def _sockets(self) -> list[socket.socket]:
        return [*self._listeners, *chain(*self._pairs)]

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((self._host, port))
        with self._lock:
            self._listeners.append(listener)
            if self._is_closed:
                _shut_down(listener)
        return listener

    def _accept_all(self, listener: socket.socket, far: tuple[str, int], before_answer: Callable[[], None]) -> None:
        with suppress(OSError):
            while True:
                self._connect(listener.accept()[0], far, before_answer)

    def _accept_one(self, listener: socket.socket, far: tuple[str, int]) -> None:
        with suppress(OSError):
            listener.settimeout(FURTHER_SECONDS)
            self._connect(listener.accept()[0], far)
        listener.close()
        self._wired_ports.discard(far[1])

    def _connect(
        self, near: socket.socket, address: tuple[str, int], before_answer: Callable[[], None] = lambda: None
    ) -> None:
        near.settimeout(None)
        try:
            far = socket.create_connection(address)
        except OSError:  # the server is not there
            near.close()
            return
        self._join(near, far, before_answer)

    def _lay_further(self, host: str, further_ports: Callable[[], Set[int]]) -> None:
        with self._lock:
            ports = further_ports() - self._wired_ports
            self._wired_ports |= ports
        for port in ports:
            with suppress(OSError):  # the port is taken here, and whoever is told of it will ask for another
                self._start(self._accept_one, self._listen(port), (host, port))

    def _join(self, near: socket.socket, far: socket.socket, before_answer: Callable[[], None] = lambda: None) -> None:
        far.settimeout(None)
        with self._lock:
            self._pairs.append((near, far))
            if self._is_closed:
                _shut_down(near)
                _shut_down(far)
        self._start(self._pump, near, far, CALLS, lambda: None)
        self._start(self._pump, far, near, ANSWERS, before_answer)

    def _pump(
        self, source: socket.socket, target: socket.socket, direction: str, before_each: Callable[[], None]
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                before_each()
                try:
                    target.sendall(self.harm(direction, data))
                except CutError as cut:
                    target.sendall(cut.rest)
                    _shut_down(source)
        with self._lock:
            if target not in self._abandoned:
                _shut_down(target)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="wire")
        thread.start()
        self._threads.append(thread)


def _shut_down(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
