"""Direct links from the offer to the end: a socket for each, a token, a thread. Knows callers, not calls."""

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from expertmesh.errors import ConfigError
from expertmesh.expert.budget import CallBudget
from expertmesh.expert.direct_link import Caller, DirectLink, meet
from expertmesh.expert.job import CallRunner
from expertmesh.rpc.exact_io import set_up
from expertmesh.rpc.socket_directory import socket_directory
from expertmesh.rpc.sockets import bind, split_address
from expertmesh.rpc.tls import TlsServer
from expertmesh.wire.offers import LinkOffer, SocketKind

_log = logging.getLogger(__name__)

OFFER_SECONDS = 5.0
# Who connects and shows nothing is sent away after so long.
HELLO_SECONDS = 1.0
TOKEN_BYTES = 32


class LinkHost:
    """Offers links to callers of ``executor`` and serves them; use it in ``with``, which ends them all.

    Each has a Unix socket in a directory of its own, which nobody else may enter and which goes once it is used, or a
    port of the host that ``listen`` (host:port) names, where callers meet ``tls``. What their calls take is of
    ``budget``.
    """

    def __init__(self, executor: CallRunner, budget: CallBudget, listen: str, tls: TlsServer | None = None) -> None:
        self._executor = executor
        self._budget = budget
        self._host = split_address(listen)[0]
        self._tls = tls
        self._links: set[OfferedLink] = set()

    def __enter__(self) -> "LinkHost":
        return self

    def __exit__(self, *_: object) -> None:
        for link in list(self._links):
            link.close()
        for link in list(self._links):
            link.join()

    def open(self, kind: SocketKind, on_end: Callable[[], object]) -> "OfferedLink":
        """Offer a link; ``on_end`` is called in its thread when it has ended, or when nobody came for it.

        ConfigError when this process can have no such socket.
        """

        def end() -> None:
            self._links.discard(link)
            on_end()

        with ExitStack() as place:
            listener, address = self._listen(kind, place)
            offer = LinkOffer(address, secrets.token_bytes(TOKEN_BYTES), OFFER_SECONDS)
            tls = self._tls if kind is SocketKind.TCP else None
            link = OfferedLink(offer, listener, place.pop_all(), self._serve, end, tls)
        self._links.add(link)
        link.start()
        return link

    def drain(self) -> None:
        """End each link once the call that it has read is answered."""
        for link in list(self._links):
            link.drain()

    def _listen(self, kind: SocketKind, place: ExitStack) -> tuple[socket.socket, str | int]:
        if kind is SocketKind.TCP:
            host = f"[{self._host}]" if ":" in self._host else self._host
            listener = place.enter_context(bind(f"{host}:0"))
            return listener, int(listener.getsockname()[1])
        try:
            address = str(place.enter_context(socket_directory()) / "link")
            listener = place.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(address)
            listener.listen()
            return listener, address
        except OSError as error:  # such as a file system that is read-only
            raise ConfigError(f"there is no place for a Unix socket: {error}") from error

    def _serve(self, caller: Caller) -> DirectLink:
        return DirectLink(caller, self._executor, self._budget)


class OfferedLink:
    """A link and its thread, which first waits for the caller that knows the token. Any thread may call it.

    ``place`` is closed once nobody else may come: the ``listener``, and where it lies.
    """

    def __init__(
        self,
        offer: LinkOffer,
        listener: socket.socket,
        place: ExitStack,
        make_link: Callable[[Caller], DirectLink],
        on_end: Callable[[], object],
        tls: TlsServer | None = None,
    ) -> None:
        self.offer = offer
        self._listener = listener
        self._place = place
        self._make_link = make_link
        self._on_end = on_end
        self._tls = tls
        self._lock = threading.Lock()
        self._link: DirectLink | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="expert-link")

    def start(self) -> None:
        """Wait for the caller from now on."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def drain(self) -> None:
        """End once the call that was read is answered."""
        link = self._stop_waiting()
        if link is not None:
            link.drain()

    def close(self) -> None:
        """End as soon as no kernel runs for it."""
        link = self._stop_waiting()
        if link is not None:
            link.close()

    def _stop_waiting(self) -> DirectLink | None:
        with self._lock:
            self._is_ending = True
            if self._link is None:
                with suppress(OSError):  # it is closed already
                    self._listener.shutdown(socket.SHUT_RDWR)
            return self._link

    def _run(self) -> None:
        try:
            caller = self._accept()
            if caller is not None:
                with caller.connection:
                    self._serve(caller)
        finally:
            self._on_end()

    def _serve(self, caller: Caller) -> None:
        link = self._make_link(caller)
        with self._lock:
            if self._is_ending:
                return
            self._link = link
        link.serve()

    def _accept(self) -> Caller | None:
        """Return who shows the token in time; nobody else can come after it."""
        deadline = time.monotonic() + self.offer.timeout_seconds
        try:
            while (remaining := deadline - time.monotonic()) > 0:
                self._listener.settimeout(remaining)
                connection, _ = self._listener.accept()
                if caller := self._meet(connection, min(remaining, HELLO_SECONDS)):
                    return caller
        except OSError as error:  # the time is over, or the link is ending
            _log.debug("nobody came for a link: %s", error)
        finally:
            self._place.close()
        return None

    def _meet(self, connection: socket.socket, timeout_seconds: float) -> Caller | None:
        """Send away whoever shows no token, or no certificate where one is wanted."""
        try:
            if self._tls is not None:
                connection = self._tls.accept(connection, timeout_seconds)
        except OSError as error:
            _log.warning("someone connected to a link with TLS and was sent away: %s", error)
            return None
        if caller := meet(connection, self.offer.token, timeout_seconds):
            set_up(connection)
            return caller
        connection.close()
        _log.warning("someone connected to a link without its token and was sent away")
        return None
