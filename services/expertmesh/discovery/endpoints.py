"""Where expert servers may be found. Knows addresses, not what answers there."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Endpoints:
    """One snapshot: addresses (host:port) that may get calls, and others that only finish the calls they have."""

    eligible: frozenset[str] = frozenset()
    terminating: frozenset[str] = frozenset()


class Discovery(Protocol):
    """A source of endpoints that may change while the gateway runs."""

    @property
    def age_seconds(self) -> float:
        """How long ago the source last confirmed what it said; 0 for one that cannot change."""
        ...

    def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the endpoints known now, then again whenever they change."""
        ...


class StaticDiscovery:
    """A list that never changes."""

    age_seconds = 0.0

    def __init__(self, addresses: frozenset[str]) -> None:
        self._endpoints = Endpoints(addresses)

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the list, once."""
        yield self._endpoints
