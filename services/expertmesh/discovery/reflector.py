"""A copy of the EndpointSlices that the API server has. Knows lists, watches and versions, not HTTP or endpoints.

The client's own informer is not used: it connects thousands of times a second while the API server is away.
"""

import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from expertmesh.discovery.slice_api import ApiServerError, Event, ExpiredError, SliceApi
from expertmesh.discovery.slices import Slice


@dataclass(frozen=True)
class Timing:
    """How long things may take, in seconds.

    A watch lasts a random time between ``min_watch`` and ``max_watch``, so that many gateways do not come back
    together; one that says nothing for ``quiet_watch`` (bookmarks come every minute) or ends within ``short_watch`` is
    broken. Everything is listed again every ``relist``. ``request`` bounds other requests.
    """

    request: float = 30.0
    min_watch: int = 240
    max_watch: int = 480
    quiet_watch: float = 90.0
    short_watch: float = 0.5
    relist: float = 600.0


class SliceReflector:
    """Holds ``slices`` by name as last told, and ``heard_at`` (monotonic), when the API server last told anything."""

    def __init__(self, timing: Timing, rng: random.Random) -> None:
        self.slices: dict[str, Slice] = {}
        self.heard_at = time.monotonic()
        self._timing = timing
        self._rng = rng
        self._version: str | None = None
        self._relist_at = 0.0

    async def follow(self, api: SliceApi) -> AsyncGenerator[None, None]:
        """Follow the API server until it fails, and yield at each change; goes on from where it was before.

        Raises ApiServerError, or what the client raises when a connection fails.
        """
        try:
            while True:
                if self._version is None or time.monotonic() >= self._relist_at:
                    await self._list(api)
                    yield
                async with aclosing(self._watch(api)) as changes:
                    async for change in changes:
                        yield change
        except ExpiredError:
            self._version = None
            raise

    async def _list(self, api: SliceApi) -> None:
        self.slices, self._version = await api.list()
        self.heard_at = time.monotonic()
        self._relist_at = self.heard_at + self._timing.relist

    async def _watch(self, api: SliceApi) -> AsyncGenerator[None, None]:
        """Apply the events of one watch; yield after those that change slices."""
        assert self._version is not None
        async with api.watch(self._version, self._draw_watch_seconds(), self._timing.quiet_watch) as events:
            started = self.heard_at = time.monotonic()
            try:
                async for event in events:
                    self.heard_at = time.monotonic()
                    if self._apply(event):
                        yield
            except TimeoutError:
                # A watch that has nothing to tell and one that hangs look alike; the next one continues either.
                return
            if time.monotonic() - started < self._timing.short_watch:
                raise ApiServerError("the API server ended a watch that had just begun")

    def _apply(self, event: Event) -> bool:
        """Update the copy; returns whether slices changed."""
        kind, item = event["type"], event["object"]
        self._version = item["metadata"]["resourceVersion"]
        if kind in ("ADDED", "MODIFIED"):
            self.slices[item["metadata"]["name"]] = item
        elif kind == "DELETED":
            self.slices.pop(item["metadata"]["name"], None)
        return kind in ("ADDED", "MODIFIED", "DELETED")

    def _draw_watch_seconds(self) -> int:
        """Draw the length of a watch; it ends when the next list is due."""
        seconds = self._rng.randint(self._timing.min_watch, self._timing.max_watch)
        return max(1, min(seconds, round(self._relist_at - time.monotonic())))
