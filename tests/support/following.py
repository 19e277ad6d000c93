"""Watching a discovery as the gateway does, waiting for what it says, and telling it what to say."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from expertmesh.discovery.endpoints import Discovery, Endpoints


class ToldDiscovery:
    """Says what it is told to."""

    age_seconds = 0.0

    def __init__(self, *eligible: str) -> None:
        self._said: asyncio.Queue[Endpoints] = asyncio.Queue()
        self.say(*eligible)

    def say(self, *eligible: str, terminating: Sequence[str] = ()) -> None:
        self._said.put_nowait(Endpoints(frozenset(eligible), frozenset(terminating)))

    async def watch(self) -> AsyncIterator[Endpoints]:
        while True:
            yield await self._said.get()


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
