"""Where expert servers may be found. Knows addresses, not what answers there."""

from collections.abc import AsyncIterator
from typing import Protocol

from expertmesh.errors import ConfigError

Endpoints = frozenset[str]


class Discovery(Protocol):
    """A source of endpoints that may change while the gateway runs."""

    def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the endpoints known now, then again whenever they change."""
        ...


class StaticDiscovery:
    """A list that never changes."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the list, once."""
        yield self._endpoints


def parse_endpoints(text: str) -> Endpoints:
    """Read a comma-separated list of ``host:port``; raise ConfigError that names the first wrong entry."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    for entry in entries:
        host, _, port = entry.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"{entry!r} is not an endpoint; write host:port, for example 127.0.0.1:50052")
    if not entries:
        raise ConfigError("no expert endpoint given; write host:port,host:port,...")
    return frozenset(entries)
