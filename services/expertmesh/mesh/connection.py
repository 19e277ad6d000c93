"""The connection to one replica: it is made, watched, and comes back by itself. Knows endpoints, not calls.

All of it runs in the event loop, beside the thread that calls the replica.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import grpc

from expertmesh.errors import FingerprintMismatchError
from expertmesh.mesh.link import Link, LinkLostError
from expertmesh.mesh.open_link import open_link
from expertmesh.mesh.replica import Replica
from expertmesh.rpc.channels import open_channel
from expertmesh.v1 import expert_pb2, expert_pb2_grpc
from expertmesh.wire.info import ServerInfo, decode_info

_log = logging.getLogger(__name__)

GET_INFO_TIMEOUT_SECONDS = 5.0
MIN_BACKOFF_SECONDS = 0.1
# A server that comes back at an address that never changes shall be found again within a second.
MAX_BACKOFF_SECONDS = 1.0
MISMATCH_BACKOFF_SECONDS = 5.0
# A server that never answers what it owes is let go after so long.
RETIREMENT_SECONDS = 60.0
RETIREMENT_PAUSE_SECONDS = 0.01


class ReplicaConnection:
    """Keeps ``replica`` connected while ``run`` runs."""

    def __init__(self, replica: Replica, fingerprint: str, transport: str) -> None:
        self._replica = replica
        self._fingerprint = fingerprint
        self._transport = transport
        self._retired = asyncio.Event()
        self._rng = random.Random()
        self._backoff = MIN_BACKOFF_SECONDS

    def retire(self) -> None:
        """Have no new calls made; ``run`` ends once those made before are answered."""
        self._retired.set()
        self._replica.retire()

    async def run(self) -> None:
        """Connect, wait until the connection ends, and connect again; until retired or cancelled."""
        while not self._retired.is_set():
            try:
                await self._serve_connection()
            except FingerprintMismatchError as error:
                _log.error("refusing replica: %s", error)
                self._backoff = MISMATCH_BACKOFF_SECONDS
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, LinkLostError) as error:
                self._log_end(error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), self._backoff * self._rng.uniform(0.5, 1.0))
            self._backoff = min(2 * self._backoff, MAX_BACKOFF_SECONDS)

    async def _serve_connection(self) -> None:
        info = await self._get_info()
        ended = asyncio.Event()
        link = await self._open(info, ended)
        try:
            self._backoff = MIN_BACKOFF_SECONDS
            _log.info(
                "replica %s is ready with experts %s over %s",
                self._replica.endpoint,
                list(info.experts),
                link.transport,
            )
            self._replica.connect(link, frozenset(info.experts))
            await self._watch(ended)
        finally:
            self._replica.disconnect(link)
            link.close()

    async def _get_info(self) -> ServerInfo:
        async with open_channel(self._replica.endpoint) as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            return decode_info(await stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=GET_INFO_TIMEOUT_SECONDS))

    async def _open(self, info: ServerInfo, ended: asyncio.Event) -> Link:
        """Open a link in a thread, which blocks; ``ended`` is set once its connection ends."""
        link_ended = partial(_call_soon, asyncio.get_running_loop(), ended.set)
        opening = asyncio.create_task(
            asyncio.to_thread(
                open_link, self._replica.endpoint, info, self._fingerprint, self._transport, on_end=link_ended
            )
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            with suppress(LinkLostError, FingerprintMismatchError):
                (await opening).close()
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

    def _log_end(self, error: Exception) -> None:
        # A replica that was there is worth a warning, one that is not there yet or is meant to end is not.
        level = logging.WARNING if self._replica.experts and not self._replica.is_retired else logging.DEBUG
        reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
        _log.log(level, "replica %s: %s", self._replica.endpoint, reason)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed, so nobody waits
        loop.call_soon_threadsafe(callback)
