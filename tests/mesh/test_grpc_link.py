import grpc
import pytest
from link_server import link_server, make_call
from waiting import no_thread_left

from expertmesh.mesh.grpc_link import GrpcLink
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.open_link import open_link


def test_a_server_of_another_model_ends_the_stream_and_says_why():
    with link_server() as server:
        channel = grpc.insecure_channel(server.address)
        link = GrpcLink(channel, server.address, "beef", on_close=channel.close)
        with pytest.raises(LinkLostError, match="FAILED_PRECONDITION.*'beef'; this server serves 'f00d'"):
            link.send(1, make_call())
            link.receive(1, 10)
        link.close()


def test_it_ends_with_its_threads_and_its_channel():
    closed = []
    with no_thread_left("grpc-link"), link_server() as server:
        link = server.open("grpc")
        assert isinstance(link, GrpcLink)
        link._on_close = lambda on_close=link._on_close: closed.append(on_close())
        link.send(1, make_call())
        link.receive(1, 10)
        link.close()
        link.close()
    assert closed == [None]


def test_an_unknown_transport_is_refused():
    with pytest.raises(ValueError, match="transport 'pigeon' is unknown"):
        open_link("127.0.0.1:9", "f00d", "pigeon")
