"""Sockets of links over TLS, against what plain ones do."""

import random
import select
import socket
import threading
from contextlib import ExitStack, contextmanager

import pytest
from certificates import EXPERTS, Authority

from expertmesh.rpc.exact_io import be_patient, receive_exactly, rest_of, send_exactly
from expertmesh.rpc.tls import open_client, open_server
from expertmesh.rpc.tls_socket import RECORD_BYTES, has_read_ahead, poll
from expertmesh.settings.tls import ClientTls, ServerTls

SECONDS = 30.0


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    issued = authority.issue("experts")
    server, client = ServerTls(issued.cert, issued.key), ClientTls(authority.ca, server_name=EXPERTS)
    return open_server(server), open_client(client)


@contextmanager
def connected(ends):
    """Both ends of a connection."""
    server, client = ends
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        near = socket.create_connection(listener.getsockname(), timeout=SECONDS)
        far, secured = listener.accept()[0], []
        accepting = threading.Thread(target=lambda: secured.append(server.accept(far, SECONDS)))
        accepting.start()
        caller = stack.enter_context(client.connect(near, "127.0.0.1"))
        accepting.join()
        yield caller, stack.enter_context(secured[0])


def pieces(data, seed):
    """Cut bytes into buffers, some of them empty."""
    cuts = sorted(random.Random(seed).choices(range(len(data)), k=7))
    return [memoryview(data)[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("num_bytes", [1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 3_000_000])
def test_what_is_sent_arrives_in_both_directions_at_once(num_bytes, ends):
    data, received = random.Random(num_bytes).randbytes(num_bytes), memoryview(bytearray(num_bytes))
    with connected(ends) as (caller, callee):

        def echo():
            taken = memoryview(bytearray(num_bytes))
            assert receive_exactly(callee, taken)
            send_exactly(callee, [taken])

        thread = threading.Thread(target=echo)
        thread.start()
        send_exactly(caller, pieces(data, num_bytes) if num_bytes > 1 else [data, b""])
        assert receive_exactly(caller, received) and received == data
        thread.join()


def test_what_the_other_end_does_not_take_is_kept_and_sent_again(ends):
    data = random.Random(0).randbytes(20_000_000)  # more than the kernel holds
    with connected(ends) as (caller, callee):
        rest = [memoryview(data)]
        with pytest.raises(BlockingIOError):
            while True:
                rest = rest_of(rest, caller.sendmsg(rest, (), socket.MSG_DONTWAIT))
        received = memoryview(bytearray(len(data)))
        reading = threading.Thread(target=receive_exactly, args=(callee, received))
        reading.start()
        # As a link does: copied, and with more behind.
        send_exactly(caller, [bytes(rest[0]), b"more"])
        more = memoryview(bytearray(4))
        reading.join()
        assert receive_exactly(callee, more) and more == b"more" and received == data


def test_one_read_fills_several_buffers_with_what_has_arrived(ends):
    with connected(ends) as (caller, callee):
        send_exactly(callee, [b"header", b"body"])
        header, body = memoryview(bytearray(6)), memoryview(bytearray(100))
        assert caller.recvmsg_into((header, body))[0] == 10
        assert (header, body[:4]) == (b"header", b"body")


def test_what_was_decrypted_ahead_is_known_although_the_kernel_has_nothing(ends):
    with connected(ends) as (caller, callee):
        send_exactly(callee, [b"two parts"])
        assert caller.recv_into(memoryview(bytearray(3))) == 3
        assert has_read_ahead(caller) and not poll(caller, select.POLLIN, 0)
        assert caller.recv_into(memoryview(bytearray(100)), 0, socket.MSG_DONTWAIT) == 6
        assert not has_read_ahead(caller) and not has_read_ahead(callee)


def test_a_wait_ends_with_blocking_io_error_as_where_the_kernel_keeps_the_time(ends):
    plain, other = socket.socketpair()
    with connected(ends) as (caller, _), plain, other:
        for connection in (caller, plain):
            be_patient(connection, 0.001)
            with pytest.raises(BlockingIOError):
                connection.recv_into(bytearray(1))
            with pytest.raises(BlockingIOError):
                connection.recv_into(bytearray(1), 0, socket.MSG_DONTWAIT)


@pytest.mark.parametrize("how", [socket.SHUT_RDWR, socket.SHUT_RD])
def test_a_shutdown_wakes_who_reads_and_shows_nothing_encrypted(how, ends):
    with connected(ends) as (caller, callee):
        counts = []
        reading = threading.Thread(target=lambda: counts.append(caller.recv_into(bytearray(100))))
        reading.start()
        caller.shutdown(how)
        reading.join(SECONDS)
        assert counts == [0]


def test_an_end_that_is_closed_is_the_end(ends):
    with connected(ends) as (caller, callee):
        callee.close()
        assert caller.recv_into(bytearray(1)) == 0
