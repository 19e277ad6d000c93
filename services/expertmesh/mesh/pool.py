"""The replicas that exist now, each kept connected. Knows endpoints and the event loop that connects, not calls."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from expertmesh.discovery.endpoints import Discovery, Endpoints
from expertmesh.mesh.connection import ReplicaConnection
from expertmesh.mesh.identity import check_weights
from expertmesh.mesh.numerics import check_numerics
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.roster import Roster
from expertmesh.rpc.tls import TlsClient
from expertmesh.wire.info import ServerInfo

# Servers that do not even refuse hold up a thread for seconds each; the others shall not have to wait for one.
MAX_OPENING = 32


class ReplicaPool:
    """Keeps one connected ``Replica`` per endpoint that discovery calls eligible, while ``run`` runs.

    Who can be called is on the ``roster``, for the thread that calls. A replica whose endpoint is eligible no more gets
    no new calls, finishes those it has, and is dropped. One that computes other bits than those that host its experts
    already is refused, unless the pool ``mixes_numerics``, and one that has hashed other weights in any case.
    """

    def __init__(
        self,
        discovery: Discovery,
        fingerprint: str,
        transport: str = "auto",
        mixes_numerics: bool = False,
        tls: TlsClient | None = None,
    ) -> None:
        self.roster = Roster()
        self._discovery = discovery
        self._fingerprint = fingerprint
        self._transport = transport
        self._mixes_numerics = mixes_numerics
        self._tls = tls
        self._active: dict[str, ReplicaConnection] = {}
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        self._openers = ThreadPoolExecutor(MAX_OPENING, "open-link")
        self._changed = asyncio.Event()
        self._return: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def replicas(self) -> Sequence[Replica]:
        """Every known replica, ready or not, ordered by endpoint."""
        return self.roster.replicas

    @property
    def discovery_age_seconds(self) -> float:
        """How long ago the source of endpoints last confirmed what it said."""
        return self._discovery.age_seconds

    def ready(self, expert: int) -> Sequence[Replica]:
        """Replicas that host ``expert`` and are to be called now: not an ejected one where there is another."""
        return self.roster.ready(expert)

    def missing(self, num_experts: int) -> list[int]:
        """Experts below ``num_experts`` that no ready replica hosts."""
        return [expert for expert in range(num_experts) if not self.ready(expert)]

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is tried again whenever a replica comes or goes."""
        while not condition():
            await self._changed.wait()

    async def run(self) -> None:
        """Follow discovery until cancelled, then drop every connection."""
        self._loop = asyncio.get_running_loop()
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
        replica = Replica(endpoint, self._announce)
        connection = self._active[endpoint] = ReplicaConnection(
            replica, self._fingerprint, self._transport, self._openers, self._check, self._tls
        )
        task = self._tasks[replica] = asyncio.create_task(connection.run(), name=f"replica {endpoint}")
        task.add_done_callback(lambda _: self._drop(replica))
        self._know()

    def _check(self, replica: Replica, info: ServerInfo) -> None:
        check_weights(replica, info, self.replicas)
        if not self._mixes_numerics:
            check_numerics(replica, info, self.replicas)

    def _drop(self, replica: Replica) -> None:
        self._tasks.pop(replica, None)
        self._know()

    def _know(self) -> None:
        self.roster.know(sorted(self._tasks, key=lambda replica: replica.endpoint))

    async def _close(self) -> None:
        self.roster.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._openers.shutdown()
        if self._return:
            self._return.cancel()

    def _announce(self) -> None:
        """Tell both threads that somebody can be called, or not any more; called in either."""
        self.roster.update()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._take_note)

    def _take_note(self) -> None:
        self._announce_return(time.monotonic())
        # Waiters hold the old event; a new one serves the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    def _announce_return(self, now: float) -> None:
        """Announce again when the next ejection ends."""
        if self._return:
            self._return.cancel()
        ends = [replica.health.ejected_until - now for replica in self.replicas if replica.health.is_ejected(now)]
        self._return = asyncio.get_running_loop().call_later(min(ends), self._announce) if ends else None
