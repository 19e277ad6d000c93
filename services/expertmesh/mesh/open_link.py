"""Opening a link to a replica, by a thread that may wait. Knows transports and how to choose, not calls."""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import grpc

from expertmesh.errors import FingerprintMismatchError
from expertmesh.mesh.direct_link import DirectLink
from expertmesh.mesh.dispatch_config import TRANSPORTS
from expertmesh.mesh.grpc_link import GrpcLink
from expertmesh.mesh.link import Link, LinkLostError
from expertmesh.rpc.channels import open_blocking_channel
from expertmesh.rpc.exact_io import descriptors_beside, receive_exactly, send_exactly, set_up
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.rpc.shared_memory import SharedMemory, make_shared
from expertmesh.rpc.tls import TlsClient
from expertmesh.rpc.tls_failures import explain_failure
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.failures import WireError
from expertmesh.wire.frames import HEADER_BYTES, Kind, decode_header, encode_hello
from expertmesh.wire.info import ServerInfo, decode_info
from expertmesh.wire.offers import LinkOffer, SocketKind, decode_offer, encode_kind

_log = logging.getLogger(__name__)

OPEN_TIMEOUT_SECONDS = 5.0
# Memory for the calls of a link that are under way, and for their answers: 5,000 rows of Mixtral. Those for which there
# is no room travel through the socket. Pages are used from the first on, and never touched where they are not needed.
SHARED_BYTES = 128 * 1024 * 1024


class MisfitError(LinkLostError):
    """The server is there, but the settings of both ends allow no link: that will stay so."""


class _UnreachableError(LinkLostError):
    """The server offers no socket, or one that cannot be reached from here."""


class OpenedLink(NamedTuple):
    """A link, and what the server at its other end says about itself."""

    link: Link
    info: ServerInfo


def open_link(
    endpoint: str,
    fingerprint: str,
    transport: str = "auto",
    on_end: Callable[[], None] = lambda: None,
    tls: TlsClient | None = None,
) -> OpenedLink:
    """Open a link to the server at ``endpoint`` (host:port); blocks for some seconds at most.

    ``transport`` "direct" is a Unix socket on one host and TCP otherwise, "grpc" a Dispatch stream, and "auto" the
    Unix socket where it can be reached, which is on one host, and a Dispatch stream elsewhere. ``on_end`` is called in
    any thread once the connection ends. With ``tls`` all but Unix sockets are encrypted, and the server's certificate
    is checked. LinkLostError when there is none (MisfitError for want of a direct one, or where TLS fails),
    FingerprintMismatchError when the server serves another model, ValueError for another transport.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport {transport!r} is unknown; one of {TRANSPORTS} would be right")
    channel = open_blocking_channel(endpoint, tls)
    try:
        info = _get_info(channel, endpoint, has_tls=tls is not None)
        _check_fingerprint(info, endpoint, fingerprint)
        caller = _Caller(channel, endpoint, fingerprint, on_end, tls)
        return OpenedLink(_open(caller, transport), info)
    except BaseException:
        channel.close()
        raise


class _Caller(NamedTuple):
    """Who opens a link, and to where."""

    channel: grpc.Channel
    endpoint: str
    fingerprint: str
    on_end: Callable[[], None]
    tls: TlsClient | None


def _open(caller: _Caller, transport: str) -> Link:
    channel, endpoint, fingerprint, on_end, _ = caller
    kinds = {"auto": [SocketKind.UNIX], "grpc": [], "direct": [SocketKind.UNIX, SocketKind.TCP]}[transport]
    reason = None
    for kind in kinds:
        try:
            return _open_direct(caller, kind)
        except _UnreachableError as error:
            _log.debug("no %s socket to %s: %s", kind.name, endpoint, error)
            reason = error
    if transport == "direct":
        raise MisfitError(
            f"no direct link to {endpoint}: {reason}; let this gateway reach every TCP port there, or choose the "
            "transport auto"
        )
    return GrpcLink(channel, endpoint, fingerprint, on_end, channel.close)


def _get_info(channel: grpc.Channel, endpoint: str, has_tls: bool) -> ServerInfo:
    stub = expert_pb2_grpc.ExpertServiceStub(channel)
    try:
        return decode_info(stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=OPEN_TIMEOUT_SECONDS))
    except grpc.RpcError as error:
        what = f"{endpoint} cannot be asked what it is: {error.code().name}: {error.details()}"
        if remedy := explain_failure(error.details(), has_tls):
            raise MisfitError(f"{what}: {remedy}") from error
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            raise MisfitError(what) from error
        raise LinkLostError(what) from error
    except WireError as error:
        raise LinkLostError(f"{endpoint} says what cannot be: {error}") from error


def _check_fingerprint(info: ServerInfo, endpoint: str, fingerprint: str) -> None:
    if info.fingerprint != fingerprint:
        raise FingerprintMismatchError(
            f"{endpoint} serves model {info.fingerprint}, this gateway serves {fingerprint}; "
            "start both from the same checkpoint"
        )


def _open_direct(caller: _Caller, kind: SocketKind) -> DirectLink:
    channel, endpoint, fingerprint, on_end, tls = caller
    stub = expert_pb2_grpc.ExpertServiceStub(channel)
    # Stays open for as long as the link, so it has no deadline; each end of either is the end of both.
    agreement = stub.OpenLink(encode_kind(kind), metadata=((FINGERPRINT_KEY, fingerprint),))
    try:
        connection, memory = _connect(_receive_offer(agreement, endpoint), endpoint, tls)
    except BaseException:
        agreement.cancel()
        raise

    def close() -> None:
        agreement.cancel()
        channel.close()

    link = DirectLink(connection, endpoint, close, memory)

    def end() -> None:
        link.end()
        on_end()

    if not agreement.add_callback(end):
        end()
    return link


def _receive_offer(agreement: Any, endpoint: str) -> LinkOffer:
    timer = threading.Timer(OPEN_TIMEOUT_SECONDS, agreement.cancel)
    timer.start()
    try:
        return decode_offer(next(agreement))
    except grpc.RpcError as error:
        raise _refusal(error, endpoint) from error
    except (StopIteration, WireError) as error:
        raise _UnreachableError(f"{endpoint} offers no link: {error!r}") from error
    finally:
        timer.cancel()


def _refusal(error: grpc.RpcError, endpoint: str) -> FingerprintMismatchError | LinkLostError:
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return FingerprintMismatchError(f"{endpoint}: {details}")
    if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL):
        return _UnreachableError(f"{endpoint} offers no such link: {details}")
    return LinkLostError(f"{endpoint} opens no link: {code.name}: {details}")


def _connect(offer: LinkOffer, endpoint: str, tls: TlsClient | None) -> tuple[socket.socket, SharedMemory | None]:
    """Connect and show the token; returns what the server shares, too. LinkLostError when it does not welcome it."""
    try:
        connection = _dial(offer, endpoint)
    except OSError as error:
        raise _UnreachableError(f"cannot connect to {offer.address}: {error}") from error
    try:
        if tls is not None and connection.family is not socket.AF_UNIX:
            connection = tls.connect(connection, _host(endpoint))
        memory = _greet(connection, offer.token)
    except (OSError, EOFError, WireError) as error:
        connection.close()
        raise LinkLostError(f"{endpoint} did not welcome a link: {error}") from error
    connection.settimeout(None)
    set_up(connection)
    return connection, memory


def _dial(offer: LinkOffer, endpoint: str) -> socket.socket:
    if isinstance(offer.address, int):
        return socket.create_connection((_host(endpoint), offer.address), timeout=offer.timeout_seconds)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(offer.timeout_seconds)
        connection.connect(offer.address)
    except OSError:
        connection.close()
        raise
    return connection


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _greet(connection: socket.socket, token: bytes) -> SharedMemory | None:
    """Show the token, and offer memory to share on a Unix socket; returns it when the server shares it."""
    with ExitStack() as stack:
        memory, descriptors = None, []
        if connection.family is socket.AF_UNIX:
            try:
                memory, descriptor = stack.enter_context(make_shared(SHARED_BYTES))
                descriptors.append(descriptor)
            except OSError as error:
                _log.debug("no memory to share: %s", error)
        send_exactly(connection, encode_hello(token), descriptors_beside(descriptors))
        return memory if _is_memory_taken(connection) else None


def _is_memory_taken(connection: socket.socket) -> bool:
    header = memoryview(bytearray(HEADER_BYTES))
    if not receive_exactly(connection, header):
        raise EOFError("it closed the connection")
    answer = decode_header(header, 0)
    if answer.kind is not Kind.WELCOME:
        raise WireError(f"it answered with {answer.kind.name}")
    return bool(answer.place)
