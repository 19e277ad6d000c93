"""Watching a discovery as the gateway does, and waiting for what it says."""

import asyncio
from collections.abc import Callable

from expertmesh.discovery.endpoints import Discovery, Endpoints


class Follower:
    """A discovery that is being watched, and the snapshots that came."""

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery
        self.snapshots: list[Endpoints] = []
        self._changed = asyncio.Event()

    async def run(self) -> None:
        async for endpoints in self.discovery.watch():
            self.snapshots.append(endpoints)
            self._changed.set()

    async def until(self, condition: Callable[[Endpoints], bool]) -> None:
        """Wait for a snapshot that fulfils ``condition``."""
        async with asyncio.timeout(15):
            while not self.snapshots or not condition(self.snapshots[-1]):
                self._changed.clear()
                await self._changed.wait()

    async def until_eligible(self, *addresses: str) -> None:
        await self.until(lambda endpoints: endpoints.eligible == set(addresses))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
