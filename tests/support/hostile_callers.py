"""Callers of an expert server that ask for as much as they can and take no answers."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
from linked_mesh import Addressed
from raw_links import connect, join, offered

from expertmesh.rpc.channels import CHANNEL_OPTIONS
from expertmesh.rpc.metadata import FINGERPRINT_KEY
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.calls import ExpertCall, encode_request
from expertmesh.wire.frames import encode_call, encode_hello
from expertmesh.wire.offers import SocketKind

# Of gRPC, so that no two channels of a test share a connection.
_ALONE = ("grpc.use_local_subchannel_pool", 1)


@contextmanager
def channel_to(address: str) -> Iterator[grpc.Channel]:
    """A connection that is nobody else's."""
    with grpc.insecure_channel(address, options=[*CHANNEL_OPTIONS, _ALONE]) as channel:
        yield channel


@contextmanager
def deaf_stream(address: str, fingerprint: str, call: ExpertCall, num_calls: int) -> Iterator[Any]:
    """Ask over a stream, and read nothing of it."""
    requests: SimpleQueue[expert_pb2.DispatchRequest | None] = SimpleQueue()
    for number in range(num_calls):
        requests.put(encode_request(number, call))
    with channel_to(address) as channel:
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        stream = stub.Dispatch(iter(requests.get, None), metadata=((FINGERPRINT_KEY, fingerprint),))
        yield stream
        stream.cancel()
        requests.put(None)


@contextmanager
def impatient_unary_calls(address: str, call: ExpertCall, num_calls: int) -> Iterator[list[Any]]:
    """Ask for many answers at once, one rpc each."""
    with channel_to(address) as channel:
        stub = expert_pb2_grpc.ExpertServiceStub(channel)
        request = expert_pb2.ForwardRequest(call=encode_request(1, call).call)
        rpcs = [stub.Forward.future(request) for _ in range(num_calls)]
        yield rpcs
        for rpc in rpcs:
            rpc.cancel()


@contextmanager
def deaf_socket(server: Addressed, kind: SocketKind, fingerprint: str) -> Iterator[socket.socket]:
    """A direct link whose caller has shown its token, and reads nothing more."""
    with ExitStack() as stack:
        offer, _ = stack.enter_context(offered(server, kind, fingerprint))
        connection = stack.enter_context(connect(offer))
        connection.sendall(join(encode_hello(offer.token)))
        yield connection


def send_while_it_takes(connection: socket.socket, call: ExpertCall, num_calls: int, seconds: float = 0.5) -> int:
    """Send calls until the server takes no more of them for a while; returns how many it took."""
    connection.settimeout(seconds)
    frame = join(encode_call(1, call))
    for number in range(num_calls):
        try:
            connection.sendall(frame)
        except OSError:
            return number
    return num_calls
