import socket
import threading
from contextlib import closing

import numpy as np
import pytest

from expertmesh.rpc.exact_io import receive_exactly, rest_of, send_exactly, set_up


def test_what_is_sent_in_parts_arrives_whole():
    here, there = socket.socketpair()
    parts = [b"head", np.arange(1_000_000, dtype=np.int32).reshape(1000, 1000), b"", memoryview(b"tail")]
    received = memoryview(bytearray(4_000_008))
    with here, there:
        sender = threading.Thread(target=send_exactly, args=(here, parts))
        sender.start()
        assert receive_exactly(there, received)
        sender.join()
    assert received.tobytes() == b"".join(memoryview(part).cast("B") if len(part) else b"" for part in parts)


def test_an_end_between_two_messages_is_none_and_within_one_an_error():
    here, there = socket.socketpair()
    with there:
        with here:
            here.sendall(b"12345")
        assert receive_exactly(there, memoryview(bytearray(2)))
        with pytest.raises(EOFError, match="after 3 of 4 bytes"):
            receive_exactly(there, memoryview(bytearray(4)))
        assert not receive_exactly(there, memoryview(bytearray(4)))


@pytest.mark.parametrize("num_sent", range(8))
def test_the_rest_is_what_was_not_sent(num_sent):
    rest = rest_of([b"ab", b"", np.array([[1], [2]], np.int16), b"c"], num_sent)
    assert b"".join(rest) == b"ab\x01\x00\x02\x00c"[num_sent:]


def test_a_tcp_connection_sends_at_once_and_probes_its_peer():
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        closing(socket.create_connection(listener.getsockname())) as connection,
    ):
        set_up(connection)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
