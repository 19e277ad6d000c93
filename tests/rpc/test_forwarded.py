"""Whose word on addresses is taken; uvicorn's middleware says the same."""

import asyncio
import itertools

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from expertmesh.errors import ConfigError
from expertmesh.rpc.forwarded import host_of_peer, parse_proxies

PEERS = ("127.0.0.1", "10.0.0.1", "192.0.2.1", "fd00::1", "::1")
HEADERS = (
    [],
    [""],
    ["198.51.100.7"],
    ["198.51.100.7, 10.0.0.2"],
    ["198.51.100.7", "203.0.113.5,10.0.0.2"],
    ["10.0.0.3, 10.0.0.2"],
    ["198.51.100.7:4711"],
    ["[2001:db8::7]:4711, fd00::2"],
    ["2001:db8::7"],
)
TRUSTED = ("", "127.0.0.1", "10.0.0.0/8", "10.0.0.0/8, 127.0.0.1, fd00::/8", "*")


def uvicorns(trusted: str, peer: str, headers: list[str]) -> str:
    seen = {}

    async def app(scope, receive, send) -> None:
        seen.update(scope)

    raw = [(b"x-forwarded-for", value.encode()) for value in headers]
    scope = {"type": "http", "client": (peer, 1), "headers": raw, "scheme": "http"}
    asyncio.run(ProxyHeadersMiddleware(app, trusted)(scope, None, None))
    return seen["client"][0]


@pytest.mark.parametrize("trusted", TRUSTED)
def test_who_is_behind_a_proxy_is_whom_uvicorn_says(trusted):
    proxies = parse_proxies(trusted)
    for peer, headers in itertools.product(PEERS, HEADERS):
        assert proxies.origin(peer, headers) == uvicorns(trusted, peer, headers), (peer, headers)


def test_what_is_no_address_is_not_believed_nor_what_stands_before_it():
    proxies = parse_proxies("10.0.0.0/8")
    for forged in ("unknown", "evil\nline", "a" * 1000, "10.0.0.9:x:y"):
        assert proxies.origin("10.0.0.1", [f"198.51.100.7, {forged}"]) == "10.0.0.1"
        assert proxies.origin("10.0.0.1", [f"198.51.100.7, {forged}, 10.0.0.2"]) == "10.0.0.2"
    assert parse_proxies("*").origin("10.0.0.1", ["unknown"]) == "10.0.0.1"


def test_an_address_of_ipv4_is_the_same_over_ipv6():
    proxies = parse_proxies("10.0.0.0/8")
    assert proxies.origin("::ffff:10.0.0.1", ["::ffff:198.51.100.7"]) == "198.51.100.7"
    assert proxies.origin("::ffff:192.0.2.1", ["198.51.100.7"]) == "192.0.2.1"


@pytest.mark.parametrize("text", ["here", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1,*", "10.0.0.1;10.0.0.2"])
def test_what_names_no_network_is_refused(text):
    with pytest.raises(ConfigError, match=r"--forwarded-allow-ips is .*10\.0\.0\.0/8"):
        parse_proxies(text)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[::ffff:10.0.0.7]:4711", "10.0.0.7"),
        ("unix:/run/socket", "unix"),
        ("unix:", "unix"),
    ],
)
def test_the_peers_of_grpc_have_hosts(peer, host):
    assert host_of_peer(peer) == host
