"""Whole buffers over blocking sockets. Knows bytes, not what they mean."""

import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any

from expertmesh.rpc.tls_socket import TlsSocket

KEEPALIVE_SECONDS = 30
KEEPALIVE_PROBE_SECONDS = 10
KEEPALIVE_PROBES = 2

Ancillary = tuple[int, int, bytes]  # level, type, data


def descriptors_beside(descriptors: Sequence[int]) -> list[Ancillary]:
    """Make the ancillary data that hands over descriptors, on a Unix socket."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors).tobytes())] if descriptors else []


def receive_exactly(connection: socket.socket, into: memoryview) -> bool:
    """Fill ``into``; False when the other end has closed before the first byte, EOFError when it did later."""
    num_received, num_bytes = 0, len(into)
    while num_received < num_bytes:
        count = connection.recv_into(into[num_received:] if num_received else into)
        if not count:
            if not num_received:
                return False
            raise EOFError(f"the connection ended after {num_received} of {num_bytes} bytes")
        num_received += count
    return True


def send_exactly(connection: socket.socket, buffers: Sequence[Any], ancillary: Sequence[Ancillary] = ()) -> None:
    """Send buffers one after the other, however long it takes, and ``ancillary`` data beside their beginning.

    BlockingIOError when the other end takes nothing for as long as ``limit_stalls`` says.
    """
    rest = rest_of(buffers, connection.sendmsg(buffers, ancillary))
    while rest:
        rest = rest_of(rest, connection.sendmsg(rest))


def rest_of(buffers: Sequence[Any], num_sent: int) -> list[memoryview]:
    """Return what remains of buffers whose first ``num_sent`` bytes are gone."""
    rest = []
    for buffer in buffers:
        view = memoryview(buffer)
        if num_sent >= view.nbytes:
            num_sent -= view.nbytes
        else:
            rest.append(view.cast("B")[num_sent:])
            num_sent = 0
    return rest


def be_patient(connection: socket.socket, seconds: float) -> None:
    """Have reads that would block raise BlockingIOError after so long, which costs them no further system call."""
    _wait_at_most(connection, seconds, socket.SO_RCVTIMEO)


def limit_stalls(connection: socket.socket, seconds: float) -> None:
    """Have blocking reads and writes end with BlockingIOError when not a byte moves for so many seconds."""
    _wait_at_most(connection, seconds, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)


def _wait_at_most(connection: socket.socket, seconds: float, *options: int) -> None:
    if isinstance(connection, TlsSocket):
        connection.settimeout(seconds)
        return
    timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    for option in options:
        connection.setsockopt(socket.SOL_SOCKET, option, timeval)


def set_up(connection: socket.socket) -> None:
    """Send at once, and notice a host that vanishes; nothing to be done for a Unix socket."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": KEEPALIVE_SECONDS,
        "TCP_KEEPINTVL": KEEPALIVE_PROBE_SECONDS,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": 1000 * (KEEPALIVE_SECONDS + KEEPALIVE_PROBES * KEEPALIVE_PROBE_SECONDS),
    }
    for name, value in options.items():
        if hasattr(socket, name):  # not everywhere
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
