"""Links with TLS to a real expert server: who gets none, and what is said of it. Calls over them: test_link.py."""

import asyncio
import logging
from contextlib import closing

import pytest
import torch
from certificates import EXPERTS, GATEWAY, Authority, replace_file
from link_server import FINGERPRINT, Ends, have_no_unix_sockets, link_server, make_call
from raw_links import connect, join, offered
from waiting import wait_until

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.open_link import MisfitError
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.rpc.exact_io import receive_exactly, send_exactly
from expertmesh.rpc.tls import TlsClient, open_client
from expertmesh.settings.tls import ClientTls, ServerTls
from expertmesh.wire.frames import HEADER_BYTES, encode_hello, encode_welcome
from expertmesh.wire.offers import SocketKind

TRANSPORTS = ["grpc", "direct"]


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def ends(authority):
    """An expert server that takes nobody but the gateway, and the gateway."""
    return Ends(authority.server(allow=[GATEWAY]), authority.client())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_is_not_named_gets_no_link(transport, authority, ends):
    with link_server(ends=ends) as server:
        for client, words in (
            (authority.client("someone", ["someone.test"]), "PERMISSION_DENIED: .*'someone.test'.* may not call here"),
            (ClientTls(authority.ca), "wants a certificate"),
            (ClientTls(), "speaks TLS: this end does not"),
            (authority.client(server_name="else.test"), "another name than the one expected"),
        ):
            with pytest.raises(MisfitError, match=words):
                server.open(transport, client=client)
        server.open(transport).close()


def test_a_token_alone_opens_no_link_over_tcp(authority, ends, caplog):
    someone, gateway = (
        open_client(authority.client(name, [name], server_name=EXPERTS)) for name in ("someone.test", GATEWAY)
    )
    with link_server(ends=ends) as server, offered(server, SocketKind.TCP, tls=open_client(ends.client)) as (offer, _):
        hello = join(encode_hello(offer.token))
        with closing(connect(offer)) as plain:
            plain.sendall(hello)
            assert_hung_up(plain)
        with closing(someone.connect(connect(offer), "127.0.0.1")) as stranger:
            assert_hung_up(stranger)
        with closing(gateway.connect(connect(offer), "127.0.0.1")) as caller:
            send_exactly(caller, [hello])
            answer = memoryview(bytearray(HEADER_BYTES))
            assert receive_exactly(caller, answer) and answer == join(encode_welcome())
    refusals = [message for message in caplog.messages if "with TLS and was sent away" in message]
    assert len(refusals) == 2 and "['someone.test'] may not call here" in refusals[1]


def assert_hung_up(connection):
    """Nothing but an alert comes, and then the end."""
    try:
        while connection.recv(100):
            pass
    except OSError:
        pass


def test_a_server_that_is_another_on_its_socket_is_not_greeted(authority, ends, monkeypatch):
    have_no_unix_sockets(monkeypatch)
    connect_as = TlsClient.connect
    wary = open_client(ClientTls(Authority(authority.ca.parent, "other").ca))
    monkeypatch.setattr(TlsClient, "connect", lambda _, connection, host: connect_as(wary, connection, host))
    with (
        link_server(ends=ends) as server,
        pytest.raises(LinkLostError, match="did not welcome a link: .*CERTIFICATE_VERIFY_FAILED"),
    ):
        server.open("direct")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_link_goes_on_when_certificates_change_and_new_ones_use_what_is_new(transport, tmp_path, monkeypatch):
    have_no_unix_sockets(monkeypatch)
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    callers, trusted = tmp_path / "callers.pem", tmp_path / "trusted.pem"
    for file in (callers, trusted):
        file.write_bytes(old.ca.read_bytes())
    server_files, client_files = old.issue("experts"), old.issue("gateway", [GATEWAY])
    client = ClientTls(trusted, client_files.cert, client_files.key)
    stale = old.client("stale", [GATEWAY])
    with link_server(ends=Ends(ServerTls(server_files.cert, server_files.key, callers), client)) as server:
        first = server.open(transport)
        new.issue("experts")
        new.issue("gateway", [GATEWAY])
        for file in (callers, trusted):
            replace_file(file, new.ca.read_bytes())
        second = server.open(transport)
        for number, link in enumerate((first, second)):
            call = make_call(300, seed=number)
            link.send(number, call)
            assert torch.equal(link.receive(number, 30).partial, server.expected(call))
            link.close()
        for client in (stale, ClientTls(new.ca, stale.cert, stale.key)):
            with pytest.raises(MisfitError):
                server.open(transport, client=client)


@pytest.mark.parametrize("is_server", [True, False], ids=["server", "gateway"])
def test_an_end_in_the_clear_is_told_of_once(is_server, authority, ends, caplog):
    """The log says what is wrong although the replica was never there."""
    server_end, client_end = (ends.server, ClientTls()) if is_server else (ServerTls(), ends.client)
    words = "speaks TLS: this end does not" if is_server else "it speaks no TLS, this end does"

    async def follow(address):
        pool = ReplicaPool(StaticDiscovery(frozenset([address])), FINGERPRINT, tls=open_client(client_end))
        task = asyncio.create_task(pool.run())
        await asyncio.to_thread(wait_until, lambda: len(told(logging.DEBUG)) >= 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def told(level):
        return [record for record in caplog.records if words in record.message and record.levelno == level]

    with caplog.at_level(logging.DEBUG), link_server(ends=Ends(server_end, client_end)) as server:
        asyncio.run(follow(server.address))
    assert len(told(logging.WARNING)) == 1
