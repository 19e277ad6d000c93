"""The connection to one replica: it is made, watched, and comes back by itself. Knows endpoints, not calls.

All of it runs in the event loop, beside the thread that calls the replica.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

from expertmesh.errors import FingerprintMismatchError
from expertmesh.mesh.identity import digests_of
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.numerics import NumericsMismatchError, numerics_of
from expertmesh.mesh.open_link import MisfitError, OpenedLink, open_link
from expertmesh.mesh.replica import Replica
from expertmesh.rpc.tls import TlsClient
from expertmesh.wire.info import ServerInfo

_log = logging.getLogger(__name__)

MIN_BACKOFF_SECONDS = 0.1
# A server that comes back at an address that never changes shall be found again within a second.
MAX_BACKOFF_SECONDS = 1.0
MISMATCH_BACKOFF_SECONDS = 5.0
# A server that never answers what it owes is let go after so long.
RETIREMENT_SECONDS = 60.0
RETIREMENT_PAUSE_SECONDS = 0.01


class ReplicaConnection:
    """Keeps ``replica`` connected while ``run`` runs; what blocks meanwhile does so in a thread of ``openers``.

    ``check`` raises NumericsMismatchError or FingerprintMismatchError for a server that shall not be called.
    """

    def __init__(
        self,
        replica: Replica,
        fingerprint: str,
        transport: str,
        openers: Executor,
        check: Callable[[Replica, ServerInfo], None],
        tls: TlsClient | None = None,
    ) -> None:
        self._replica = replica
        self._fingerprint = fingerprint
        self._transport = transport
        self._openers = openers
        self._check = check
        self._tls = tls
        self._retired = asyncio.Event()
        self._rng = random.Random()
        self._backoff = MIN_BACKOFF_SECONDS
        self._has_told_of_misfit = False

    def retire(self) -> None:
        """Have no new calls made; ``run`` ends once those made before are answered."""
        self._retired.set()
        self._replica.retire()

    async def run(self) -> None:
        """Connect, wait until the connection ends, and connect again; until retired or cancelled."""
        while not self._retired.is_set():
            try:
                await self._serve_connection()
            except (FingerprintMismatchError, NumericsMismatchError) as error:
                _log.error("refusing replica: %s", error)
                self._backoff = MISMATCH_BACKOFF_SECONDS
            except LinkLostError as error:
                self._log_end(error)
            except Exception:  # whatever a server answers, it is asked again
                _log.exception("replica %s: an unexpected error ended its connection", self._replica.endpoint)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), self._backoff * self._rng.uniform(0.5, 1.0))
            self._backoff = min(2 * self._backoff, MAX_BACKOFF_SECONDS)

    async def _serve_connection(self) -> None:
        ended = asyncio.Event()
        link, info = await self._open(ended)
        try:
            self._check(self._replica, info)
            self._backoff = MIN_BACKOFF_SECONDS
            _log.info(
                "replica %s is ready with experts %s over %s",
                self._replica.endpoint,
                list(info.experts),
                link.transport,
            )
            self._replica.connect(link, frozenset(info.experts), numerics_of(info), digests_of(info))
            await self._watch(ended)
        finally:
            self._replica.disconnect(link)
            link.close()

    async def _open(self, ended: asyncio.Event) -> OpenedLink:
        """Open a link; ``ended`` is set once its connection ends."""
        loop = asyncio.get_running_loop()
        on_end = partial(_call_soon, loop, ended.set)
        open_it = partial(open_link, self._replica.endpoint, self._fingerprint, self._transport, on_end, self._tls)
        opening = loop.run_in_executor(self._openers, open_it)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            with suppress(LinkLostError, FingerprintMismatchError):
                (await opening).link.close()
            raise

    async def _watch(self, ended: asyncio.Event) -> None:
        """Return when the replica has retired and owes nothing; LinkLostError when the connection ends before."""
        waits = [asyncio.create_task(wait) for wait in (ended.wait(), self._wait_until_free())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if ended.is_set():
            raise LinkLostError("the connection ended")

    async def _wait_until_free(self) -> None:
        await self._retired.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(RETIREMENT_SECONDS):
                while self._replica.is_held:
                    await asyncio.sleep(RETIREMENT_PAUSE_SECONDS)

    def _log_end(self, error: LinkLostError) -> None:
        level = logging.WARNING if self._is_worth_a_warning(error) else logging.DEBUG
        _log.log(level, "replica %s: %s", self._replica.endpoint, error)

    def _is_worth_a_warning(self, error: LinkLostError) -> bool:
        # A server that is there, but not over the link that is wanted, will stay so: it is worth one.
        if isinstance(error, MisfitError) and not self._has_told_of_misfit:
            self._has_told_of_misfit = True
            return True
        # A replica that was there is worth one, one that is not there yet or is meant to end is not.
        return bool(self._replica.experts) and not self._replica.is_retired


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed, so nobody waits
        loop.call_soon_threadsafe(callback)
