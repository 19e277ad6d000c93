"""The two ends of TLS, for gRPC, HTTP and sockets. Knows certificates and names, not what is said.

Files are read again when they have changed: connections from then on use what is new, those there are go on.
"""

import ctypes
import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import grpc

from expertmesh.rpc.pem_files import Pem, PemFiles, Reloading
from expertmesh.rpc.tls_socket import TlsSocket
from expertmesh.settings.tls import ClientTls, ServerTls

_log = logging.getLogger(__name__)

# What OpenSSL makes of the first bytes of others.
_NO_TLS = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER")


class _ServerSide(NamedTuple):
    grpc: grpc.ServerCertificateConfiguration
    http: ssl.SSLContext
    links: ssl.SSLContext


class _ClientSide(NamedTuple):
    grpc: grpc.ChannelCredentials
    links: ssl.SSLContext
    http: ssl.SSLContext


class TlsServer:
    """What a server shows and wants; ``settings`` have a certificate. ConfigError when a file cannot be used."""

    def __init__(self, settings: ServerTls) -> None:
        self._wants_certificates = settings.client_ca is not None
        self.identities = frozenset(map(_normalize, settings.allow_identity))
        self._side = Reloading(PemFiles(settings.cert, settings.key, settings.client_ca), _make_server_side)

    def credentials(self) -> grpc.ServerCredentials:
        """Make what a gRPC server listens with; each handshake asks for what is newest."""
        credentials = grpc.dynamic_ssl_server_credentials(
            self._side.get().grpc, lambda: self._side.get().grpc, self._wants_certificates
        )
        _keep_forever(credentials._credentials)  # type: ignore[attr-defined]  # the stubs hide it
        return credentials

    def http_context(self) -> ssl.SSLContext:
        """Make what an event loop listens with; each connection asks for what is newest."""
        return _NewestContext(lambda: self._side.get().http)

    def accept(self, connection: socket.socket, timeout_seconds: float) -> TlsSocket:
        """Make the socket of a caller one with TLS, within the time.

        OSError when it has no right certificate: ssl.SSLError, or PermissionError for one without an allowed name.
        The caller's socket is closed then.
        """
        context = self._side.get().links
        return _shake_hands(context, connection, timeout_seconds, self._check_caller, server_side=True)

    def allows(self, names: Iterable[str]) -> bool:
        """Whether one whose certificate has these names may call."""
        return not self.identities or not self.identities.isdisjoint(map(_normalize, names))

    def refusal(self, names: Iterable[str]) -> str:
        """Say why one that is not allowed is not."""
        return f"a certificate for {sorted(names)} may not call here; one for any of {sorted(self.identities)} may"

    def _check_caller(self, secured: TlsSocket) -> None:
        names = names_in(secured.getpeercert() or {})
        if not self.allows(names):
            raise PermissionError(self.refusal(names))


class TlsClient:
    """Whom a client trusts and what it shows; ``settings`` have authorities. ConfigError when a file cannot be used."""

    def __init__(self, settings: ClientTls) -> None:
        self._server_name = settings.server_name
        self._side = Reloading(PemFiles(settings.cert, settings.key, settings.ca), _make_client_side)

    def credentials(self) -> grpc.ChannelCredentials:
        """Make what a channel is opened with; a channel keeps it."""
        return self._side.get().grpc

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """Options of a channel."""
        return (("grpc.ssl_target_name_override", self._server_name),) if self._server_name else ()

    def http_context(self) -> ssl.SSLContext:
        """Return what a client of HTTP connects with."""
        return self._side.get().http

    def connect(self, connection: socket.socket, host: str) -> TlsSocket:
        """Make a socket that has reached ``host`` one with TLS, within its timeout; ssl.SSLError, and it is closed."""
        context, name = self._side.get().links, self._server_name or host
        return _shake_hands(context, connection, connection.gettimeout(), server_hostname=name)


def open_server(settings: ServerTls) -> TlsServer | None:
    """Read what ``settings`` name; None for a server in the clear."""
    return TlsServer(settings) if settings.cert else None


def open_client(settings: ClientTls) -> TlsClient | None:
    """Read what ``settings`` name; None for a client in the clear."""
    return TlsClient(settings) if settings.ca else None


def _keep_forever(credentials: Any) -> None:
    """Count a reference that nobody gives back: gRPC's threads hold a bare pointer, also while a server ends.

    A handshake that is under way then would ask what is no more. A process has a server or two.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(credentials))


def names_in(certificate: Any) -> list[str]:
    """Return the subject alternative names, of DNS and URIs, in a certificate as ``getpeercert`` has it."""
    return [name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")]


class _NewestContext(ssl.SSLContext):
    """Stands for the newest context: event loops ask it for every connection (asyncio and uvloop by ``wrap_bio``)."""

    def __new__(cls, newest: Callable[[], ssl.SSLContext]) -> "_NewestContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, newest: Callable[[], ssl.SSLContext]) -> None:
        self._newest = newest

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self._newest().wrap_bio(*args, **options)


class _TellingObject(ssl.SSLObject):
    """Says of callers that get no connection why: event loops keep that to themselves."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            _log.info("someone who called over HTTPS was not connected: %s", _explain(error))
            raise


def _explain(error: ssl.SSLError) -> str:
    return f"it speaks no TLS ({error.reason})" if error.reason in _NO_TLS else str(error)


def _make_server_side(files: PemFiles, pem: Pem) -> _ServerSide:
    http, links = (_make_context(ssl.PROTOCOL_TLS_SERVER, files) for _ in range(2))
    for context in (http, links):
        context.verify_mode = ssl.CERT_REQUIRED if files.authorities else ssl.CERT_NONE
    http.set_alpn_protocols(["http/1.1"])
    http.sslobject_class = _TellingObject
    assert pem.key is not None and pem.chain is not None, "settings of a server have both"
    configuration = grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pem.authorities)
    return _ServerSide(configuration, http, _for_links(links))


def _make_client_side(files: PemFiles, pem: Pem) -> _ClientSide:
    credentials = grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.chain)
    links, http = (_make_context(ssl.PROTOCOL_TLS_CLIENT, files) for _ in range(2))
    return _ClientSide(credentials, _for_links(links), http)


def _make_context(protocol: int, files: PemFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files.load_into(context)
    return context


def _for_links(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
    context.sslsocket_class = TlsSocket
    return context


def _shake_hands(
    context: ssl.SSLContext,
    connection: socket.socket,
    timeout_seconds: float | None,
    check: Callable[[TlsSocket], None] = lambda secured: None,
    **side: Any,
) -> TlsSocket:
    """Secure a connection within the time; closed when that, or ``check``, raises OSError."""
    secured = context.wrap_socket(connection, do_handshake_on_connect=False, **side)
    assert isinstance(secured, TlsSocket), "the context makes no others"
    secured.settimeout(timeout_seconds)
    try:
        secured.shake_hands()
        check(secured)
    except OSError:
        secured.close()
        raise
    return secured


def _normalize(name: str) -> str:
    """Return names that are equal in one way of writing; those of DNS have no case."""
    return name if "://" in name else name.lower()
