"""The replicas that exist now and who hosts which expert. Knows endpoints and readiness, not tokens."""

import asyncio
import time
from collections.abc import Callable, Sequence

from expertmesh.discovery.endpoints import Discovery, Endpoints
from expertmesh.discovery.picker import leave_out_ejected
from expertmesh.mesh.replica import Replica


class ReplicaPool:
    """Keeps one connected ``Replica`` per endpoint that discovery calls eligible, while ``run`` runs.

    A replica whose endpoint is eligible no more gets no new calls, finishes those it has, and is dropped.
    """

    def __init__(self, discovery: Discovery, fingerprint: str) -> None:
        self._discovery = discovery
        self._fingerprint = fingerprint
        self._active: dict[str, Replica] = {}
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        self._ready: dict[int, Sequence[Replica]] = {}
        self._changed = asyncio.Event()
        self._return: asyncio.TimerHandle | None = None

    @property
    def replicas(self) -> Sequence[Replica]:
        """Every known replica, ready or not, ordered by endpoint."""
        return sorted(self._tasks, key=lambda replica: replica.endpoint)

    @property
    def discovery_age_seconds(self) -> float:
        """How long ago the source of endpoints last confirmed what it said."""
        return self._discovery.age_seconds

    def ready(self, expert: int) -> Sequence[Replica]:
        """Replicas that host ``expert`` and are to be called now: not an ejected one where there is another."""
        return self._ready.get(expert, [])

    def missing(self, num_experts: int) -> list[int]:
        """Experts below ``num_experts`` that no ready replica hosts."""
        return [expert for expert in range(num_experts) if not self.ready(expert)]

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is tried again whenever a replica comes or goes."""
        while not condition():
            await self._changed.wait()

    async def run(self) -> None:
        """Follow discovery until cancelled, then drop every connection."""
        try:
            async for endpoints in self._discovery.watch():
                self._reconcile(endpoints)
            await asyncio.Event().wait()
        finally:
            await self._close()

    def _reconcile(self, endpoints: Endpoints) -> None:
        for endpoint in endpoints.eligible - self._active.keys():
            self._start(endpoint)
        for endpoint in self._active.keys() - endpoints.eligible:
            self._active.pop(endpoint).retire()

    def _start(self, endpoint: str) -> None:
        replica = Replica(endpoint, self._fingerprint, self._announce)
        task = asyncio.create_task(replica.run(), name=f"replica {endpoint}")
        self._active[endpoint] = replica
        self._tasks[replica] = task
        task.add_done_callback(lambda _: self._tasks.pop(replica, None))

    async def _close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._return:
            self._return.cancel()

    def _announce(self) -> None:
        """Work out again who can be called; called when a replica changes and when an ejection ends."""
        now = time.monotonic()
        hosts: dict[int, list[Replica]] = {}
        for replica in self._tasks:
            for expert in replica.experts if replica.is_ready else ():
                hosts.setdefault(expert, []).append(replica)
        self._ready = {expert: leave_out_ejected(replicas, now) for expert, replicas in hosts.items()}
        self._announce_return(now)
        # Waiters hold the old event; a new one serves the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    def _announce_return(self, now: float) -> None:
        """Announce again when the next ejection ends."""
        if self._return:
            self._return.cancel()
        ends = [replica.health.ejected_until - now for replica in self._tasks if replica.health.is_ejected(now)]
        self._return = asyncio.get_running_loop().call_later(min(ends), self._announce) if ends else None
