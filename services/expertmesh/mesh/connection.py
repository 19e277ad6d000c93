"""The connection to one replica: it is made, watched, and comes back by itself. Knows endpoints, not calls.

All of it runs in the event loop, beside the thread that calls the replica.
"""

import asyncio
import logging
import random
from contextlib import suppress

import grpc

from expertmesh.errors import FingerprintMismatchError
from expertmesh.mesh.link import LinkLostError
from expertmesh.mesh.replica import Replica
from expertmesh.mesh.stream_link import open_link
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

    def __init__(self, replica: Replica, fingerprint: str) -> None:
        self._replica = replica
        self._fingerprint = fingerprint
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
        async with open_channel(self._replica.endpoint) as channel:
            stub = expert_pb2_grpc.ExpertServiceStub(channel)
            info = decode_info(await stub.GetInfo(expert_pb2.GetInfoRequest(), timeout=GET_INFO_TIMEOUT_SECONDS))
            self._check(info)
            async with open_link(stub, self._fingerprint, self._replica.endpoint) as opened:
                self._backoff = MIN_BACKOFF_SECONDS
                _log.info("replica %s is ready with experts %s", self._replica.endpoint, list(info.experts))
                self._replica.connect(opened.link, frozenset(info.experts))
                try:
                    await self._watch(opened.ended)
                finally:
                    self._replica.disconnect(opened.link)

    async def _watch(self, ended: "asyncio.Task[None]") -> None:
        """Return when the replica has retired and owes nothing; raise when the connection ends before."""
        retired = asyncio.create_task(self._wait_until_free())
        try:
            await asyncio.wait((ended, retired), return_when=asyncio.FIRST_COMPLETED)
        finally:
            retired.cancel()
        if ended.done():
            ended.result()
            raise LinkLostError("the stream ended")

    async def _wait_until_free(self) -> None:
        await self._retired.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(RETIREMENT_SECONDS):
                while self._replica.is_held:
                    await asyncio.sleep(RETIREMENT_PAUSE_SECONDS)

    def _check(self, info: ServerInfo) -> None:
        if info.fingerprint != self._fingerprint:
            raise FingerprintMismatchError(
                f"{self._replica.endpoint} serves model {info.fingerprint}, this gateway serves {self._fingerprint}; "
                "start both from the same checkpoint"
            )

    def _log_end(self, error: Exception) -> None:
        # A replica that was there is worth a warning, one that is not there yet or is meant to end is not.
        level = logging.WARNING if self._replica.experts and not self._replica.is_retired else logging.DEBUG
        reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
        _log.log(level, "replica %s: %s", self._replica.endpoint, reason)
