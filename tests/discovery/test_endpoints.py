import asyncio

from expertmesh.discovery.endpoints import Endpoints, StaticDiscovery


def test_static_list_is_yielded_once_and_never_ages():
    async def collect() -> list[Endpoints]:
        return [endpoints async for endpoints in discovery.watch()]

    discovery = StaticDiscovery(frozenset({"a:1"}))
    assert asyncio.run(collect()) == [Endpoints(frozenset({"a:1"}))]
    assert discovery.age_seconds == 0
