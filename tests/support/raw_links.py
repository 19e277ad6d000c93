"""The other end of a direct link to a server of this process, byte by byte."""

import socket
from contextlib import contextmanager

from link_server import FINGERPRINT

from expertmesh.rpc.channels import open_blocking_channel
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.v1 import expert_pb2_grpc
from expertmesh.wire.offers import SocketKind, decode_offer, encode_kind


def join(frame):
    """The bytes of a frame."""
    return b"".join(memoryview(part).tobytes() for part in frame)


@contextmanager
def offered(server, kind=SocketKind.UNIX, fingerprint=FINGERPRINT, tls=None):
    """The offer of a link, and the rpc that stays open beside it."""
    with open_blocking_channel(server.address, tls) as channel:
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        agreement = stub.OpenLink(encode_kind(kind), metadata=((FINGERPRINT_KEY, fingerprint),))
        yield decode_offer(next(agreement)), agreement
        agreement.cancel()


def connect(offer):
    """Connect to where an offer says."""
    family, address = socket.AF_UNIX, offer.address
    if isinstance(offer.address, int):
        family, address = socket.AF_INET, ("127.0.0.1", offer.address)
    connection = socket.socket(family)
    connection.settimeout(10)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
