"""Where a server lets a caller connect a link, as a value and as messages. Knows no sockets."""

from dataclasses import dataclass, field
from enum import IntEnum

from expertmesh.v1 import expert_pb2
from expertmesh.wire.failures import WireError

_NS_PER_SECOND = 1_000_000_000


class SocketKind(IntEnum):
    """The kinds of ``OpenLinkRequest.Transport`` in expert.proto."""

    UNIX = expert_pb2.OpenLinkRequest.TRANSPORT_UNIX
    TCP = expert_pb2.OpenLinkRequest.TRANSPORT_TCP


@dataclass(frozen=True)
class LinkOffer:
    """Where to connect once, within ``timeout_seconds``: path of a Unix socket, or port; ``token`` is shown first."""

    address: str | int
    token: bytes = field(repr=False)
    timeout_seconds: float


def encode_kind(kind: SocketKind) -> expert_pb2.OpenLinkRequest:
    """Ask for a socket of a kind."""
    return expert_pb2.OpenLinkRequest(transport=f"TRANSPORT_{kind.name}")


def decode_kind(message: expert_pb2.OpenLinkRequest) -> SocketKind:
    """Read which kind of socket is wanted; WireError when it is none that exists here."""
    try:
        return SocketKind(message.transport)
    except ValueError:
        kinds = [kind.name for kind in SocketKind]
        raise WireError(f"transport {message.transport} is unknown; one of {kinds} would be right") from None


def encode_offer(offer: LinkOffer) -> expert_pb2.OpenLinkResponse:
    """Turn an offer into its message."""
    message = expert_pb2.OpenLinkResponse(token=offer.token, timeout_ns=int(offer.timeout_seconds * _NS_PER_SECOND))
    if isinstance(offer.address, str):
        message.unix_path = offer.address
    else:
        message.tcp_port = offer.address
    return message


def decode_offer(message: expert_pb2.OpenLinkResponse) -> LinkOffer:
    """Turn a message into an offer; WireError when it names no address."""
    which = message.WhichOneof("address")
    if which is None:
        raise WireError("the offer of a link names no address")
    return LinkOffer(getattr(message, which), message.token, message.timeout_ns / _NS_PER_SECOND)
