"""Which replicas can be called now, told by the thread that connects them to the thread that calls them.

Knows replicas and two threads, neither endpoints nor tokens.
"""

import threading
import time
from collections.abc import Mapping, Sequence

from expertmesh.mesh.health import leave_out_ejected
from expertmesh.mesh.replica import Replica


class Roster:
    """Reading takes no lock: what is ready is one value that is replaced by another."""

    def __init__(self) -> None:
        self.replicas: tuple[Replica, ...] = ()
        self._ready: Mapping[int, Sequence[Replica]] = {}
        self._missing_since: dict[int, float] = {}
        self._changed = threading.Condition()
        self._is_closed = False

    def ready(self, expert: int) -> Sequence[Replica]:
        """Replicas that host ``expert`` and are to be called now: not an ejected one where there is another."""
        return self._ready.get(expert, ())

    def missing_since(self, expert: int) -> float:
        """When ``expert`` had its last replica, by ``time.monotonic``; 0 for one that never had any, or has one now."""
        return self._missing_since.get(expert, 0.0)

    def wait_for(self, expert: int, seconds: float) -> Sequence[Replica]:
        """Wait until there is a replica of ``expert``; none when the time is over or the roster is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.ready(expert) or self._is_closed, seconds)
        return self.ready(expert)

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the roster is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, seconds)

    def know(self, replicas: Sequence[Replica]) -> None:
        """Have these replicas and no others."""
        self.replicas = tuple(replicas)
        self.update()

    def update(self) -> None:
        """Work out again who can be called, and wake whoever waits; may be called in any thread."""
        with self._changed:
            before, self._ready = self._ready, {} if self._is_closed else _work_out(self.replicas)
            lost = dict.fromkeys(before.keys() - self._ready.keys(), time.monotonic())
            kept = {expert: since for expert, since in self._missing_since.items() if expert not in self._ready}
            self._missing_since = kept | lost
            self._changed.notify_all()

    def close(self) -> None:
        """Have nobody ready and nobody wait, for good."""
        self._is_closed = True
        self.update()


def _work_out(replicas: Sequence[Replica]) -> Mapping[int, Sequence[Replica]]:
    now = time.monotonic()
    hosts: dict[int, list[Replica]] = {}
    for replica in replicas:
        for expert in replica.experts if replica.is_ready else ():
            hosts.setdefault(expert, []).append(replica)
    return {expert: leave_out_ejected(hosting, now) for expert, hosting in hosts.items()}
