import asyncio

import pytest

from expertmesh.discovery.endpoints import StaticDiscovery, parse_endpoints
from expertmesh.errors import ConfigError


def test_list_is_read_with_spaces_and_without_doubles():
    assert parse_endpoints("a:1, b:65535,a:1") == {"a:1", "b:65535"}


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:0", "a:65536", "a:x", "a:1,b"])
def test_wrong_entry_is_named(text: str):
    with pytest.raises(ConfigError, match=repr(text.split(",")[-1])):
        parse_endpoints(text)


def test_empty_list_is_refused():
    with pytest.raises(ConfigError, match="no expert endpoint"):
        parse_endpoints(" ,")


def test_static_list_is_yielded_once():
    async def collect() -> list[frozenset[str]]:
        return [endpoints async for endpoints in StaticDiscovery(frozenset({"a:1"})).watch()]

    assert asyncio.run(collect()) == [{"a:1"}]
