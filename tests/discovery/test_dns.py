import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from expertmesh.discovery.dns import DnsDiscovery, resolve_addresses
from expertmesh.discovery.endpoints import Endpoints


class Zone:
    """Names and their addresses; a name without any does not resolve, as that of a Service without ready pods."""

    def __init__(self, **records: set[str]) -> None:
        self.records = records
        self.num_queries = 0

    async def resolve(self, host: str, port: int) -> frozenset[str]:
        self.num_queries += 1
        if not self.records[host]:
            raise OSError(f"{host} not found")
        return frozenset(f"{address}:{port}" for address in self.records[host])


def snapshots(zone: Zone, *steps: Callable[[], object]) -> list[Endpoints]:
    """Follow ports 1 of all names of the zone, and take a step after each snapshot."""

    async def run() -> list[Endpoints]:
        names = frozenset((host, 1) for host in zone.records)
        seen = []
        async with asyncio.timeout(30), aclosing(DnsDiscovery(names, 0.01, zone.resolve).watch()) as watch:
            for step in [*steps, lambda: None]:
                seen.append(await anext(watch))
                step()
        return seen

    return asyncio.run(run())


def test_a_snapshot_is_the_union_of_the_names_and_comes_when_it_changes():
    zone = Zone(a={"10.0.0.1"}, b={"10.0.0.2", "[fd00::2]"})
    first, second = snapshots(zone, lambda: zone.records.update(a={"10.0.0.3"}))
    assert first.eligible == {"10.0.0.1:1", "10.0.0.2:1", "[fd00::2]:1"}
    assert second.eligible == {"10.0.0.3:1", "10.0.0.2:1", "[fd00::2]:1"}


def test_a_name_that_stops_resolving_keeps_its_addresses(caplog):
    zone = Zone(a={"10.0.0.1"}, b={"10.0.0.2"})
    first, second = snapshots(zone, lambda: zone.records.update(a=set(), b={"10.0.0.3"}))
    assert second.eligible == {"10.0.0.1:1", "10.0.0.3:1"}
    assert [record.message.split(" does")[0] for record in caplog.records] == ["a"]


def test_nothing_resolves_at_first():
    zone = Zone(a=set())
    assert snapshots(zone, lambda: zone.records.update(a={"10.0.0.1"})) == [
        Endpoints(),
        Endpoints(frozenset({"10.0.0.1:1"})),
    ]


def test_age_is_that_of_the_name_heard_of_least_recently():
    zone = Zone(a=set(), b={"10.0.0.2"})

    async def run() -> tuple[float, float]:
        discovery = DnsDiscovery(frozenset({("a", 1), ("b", 1)}), 0.01, zone.resolve)
        async with aclosing(discovery.watch()) as watch:
            await anext(watch)
            before = discovery.age_seconds
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watch), 0.1)
            return before, discovery.age_seconds

    before, after = asyncio.run(run())
    assert after > before + 0.09


def test_the_resolver_of_the_system_gives_addresses_of_both_families():
    assert "127.0.0.1:50051" in asyncio.run(resolve_addresses("localhost", 50051))
    assert asyncio.run(resolve_addresses("::1", 50051)) == {"[::1]:50051"}


def test_the_resolver_of_the_system_refuses_names_that_are_none():
    with pytest.raises(OSError):
        asyncio.run(resolve_addresses("no-such-host.invalid", 1))
