import asyncio

import pytest

from expertmesh.gateway.http.forwarded import Forwarded, client_of
from expertmesh.rpc.forwarded import parse_proxies


def seen(headers: dict[str, str], **scope: object) -> tuple[str, str]:
    """Client and scheme that an application sees of a request."""
    found = []

    async def app(scope, receive, send) -> None:
        found.append((client_of(scope), scope["scheme"]))

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    whole = {"type": "http", "client": ("10.0.0.1", 1), "scheme": "http", "headers": raw, **scope}
    asyncio.run(Forwarded(app, parse_proxies("10.0.0.0/8"))(whole, None, None))
    return found[0]


def test_a_proxy_is_believed_and_nobody_else():
    told = {"x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "https"}
    assert seen(told) == ("198.51.100.7", "https")
    assert seen(told, client=("192.0.2.1", 1)) == ("192.0.2.1", "http")
    assert seen({}) == ("10.0.0.1", "http")
    assert seen(told, client=None) == ("", "http")


@pytest.mark.parametrize("scheme", ["", "ftp", "https,http", "HTTPS"])
def test_what_is_no_scheme_changes_none(scheme):
    assert seen({"x-forwarded-proto": scheme}) == ("10.0.0.1", "http")
