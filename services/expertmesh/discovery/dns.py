"""Endpoints by resolving names again and again. Knows names and addresses, not who answers there."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from expertmesh.discovery.endpoints import Endpoints

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0

Name = tuple[str, int]
"""A host name and the port that its addresses listen on."""

Resolve = Callable[[str, int], Awaitable[frozenset[str]]]


async def resolve_addresses(host: str, port: int) -> frozenset[str]:
    """Look up the A and AAAA records of ``host``, as host:port; OSError when there are none or nobody can tell."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(
        f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"
        for family, _, _, _, address in found
    )


class DnsDiscovery:
    """Follows names, such as those of headless Services, by resolving them every ``interval_seconds``.

    A name that cannot be resolved keeps the addresses it had: its replicas answer or they do not, and the gateway
    finds that out by itself.
    """

    def __init__(
        self, names: frozenset[Name], interval_seconds: float = INTERVAL_SECONDS, resolve: Resolve = resolve_addresses
    ) -> None:
        self._interval_seconds = interval_seconds
        self._resolve = resolve
        self._known: dict[Name, frozenset[str]] = {name: frozenset() for name in names}
        self._resolved_at = dict.fromkeys(names, time.monotonic())
        self._failing: set[Name] = set()

    @property
    def age_seconds(self) -> float:
        """How long ago the name that was resolved least recently was resolved."""
        return time.monotonic() - min(self._resolved_at.values())

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the union of all names' addresses whenever it changes."""
        last = None
        while True:
            await asyncio.gather(*(self._update(name) for name in self._known))
            endpoints = Endpoints(frozenset().union(*self._known.values()))
            if endpoints != last:
                yield endpoints
                last = endpoints
            await asyncio.sleep(self._interval_seconds)

    async def _update(self, name: Name) -> None:
        try:
            self._known[name] = await self._resolve(*name)
        except OSError as error:
            if name not in self._failing:
                _log.warning("%s does not resolve, keeping %s: %s", name[0], sorted(self._known[name]), error)
            self._failing.add(name)
        else:
            self._resolved_at[name] = time.monotonic()
            self._failing.discard(name)
