"""The replicas that exist now and who hosts which expert. Knows endpoints and readiness, not tokens."""

import asyncio
from collections.abc import Callable, Sequence

from expertmesh.discovery.endpoints import Discovery, Endpoints
from expertmesh.gateway.replica import Replica


class ReplicaPool:
    """Keeps one connected ``Replica`` per endpoint that discovery names, while ``run`` runs."""

    def __init__(self, discovery: Discovery, fingerprint: str) -> None:
        self._discovery = discovery
        self._fingerprint = fingerprint
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        self._ready: dict[int, list[Replica]] = {}
        self._changed = asyncio.Event()

    @property
    def replicas(self) -> Sequence[Replica]:
        """Every known replica, ready or not, ordered by endpoint."""
        return sorted(self._tasks, key=lambda replica: replica.endpoint)

    def ready(self, expert: int) -> Sequence[Replica]:
        """Replicas that host ``expert`` and can be called now."""
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
                await self._reconcile(endpoints)
            await asyncio.Event().wait()
        finally:
            await self._reconcile(frozenset())

    async def _reconcile(self, endpoints: Endpoints) -> None:
        for endpoint in endpoints - {replica.endpoint for replica in self._tasks}:
            replica = Replica(endpoint, self._fingerprint, self._announce)
            self._tasks[replica] = asyncio.create_task(replica.run(), name=f"replica {endpoint}")
        gone = {replica: task for replica, task in self._tasks.items() if replica.endpoint not in endpoints}
        for replica, task in gone.items():
            del self._tasks[replica]
            task.cancel()
        await asyncio.gather(*gone.values(), return_exceptions=True)

    def _announce(self) -> None:
        self._ready = {}
        for replica in self._tasks:
            for expert in replica.experts if replica.is_ready else ():
                self._ready.setdefault(expert, []).append(replica)
        # Waiters hold the old event; a new one serves the next change.
        self._changed.set()
        self._changed = asyncio.Event()
