"""LoadService: how busy experts and replicas are. Knows the messages, not who counts."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.api.load_codec import encode_load
from expertmesh.gateway.api.load_rates import rates
from expertmesh.gateway.snapshot import SnapshotSource
from expertmesh.rpc.status import report_errors
from expertmesh.v1 import load_pb2 as pb
from expertmesh.v1 import load_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_INTERVAL_MS = 1000
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 100, 60_000


class LoadServicer(load_pb2_grpc.LoadServiceServicer):
    """Serves the counts of one gateway, which ``source`` knows."""

    def __init__(self, source: SnapshotSource) -> None:
        self._source = source
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End the streams: whoever watches must not keep a gateway that drains."""
        self._ending.set()

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.GetLoadResponse:  # noqa: D102
        async with report_errors(context):
            return await self.read_load()

    async def WatchLoad(  # noqa: D102
        self, request: pb.WatchLoadRequest, context: Context
    ) -> AsyncIterator[pb.WatchLoadResponse]:
        async with report_errors(context):
            interval_seconds = _interval_seconds(request)
            load, taken = await self.read_load(), time.monotonic()
        yield pb.WatchLoadResponse(load=load)
        while not await self._ends_within(interval_seconds):
            before, since, load, taken = load, taken, await self.read_load(), time.monotonic()
            yield pb.WatchLoadResponse(load=load, rates=rates(before, load, taken - since))

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._ending.wait()
        except TimeoutError:
            return False

    async def read_load(self) -> pb.GetLoadResponse:
        """Say what has been counted until now."""
        return encode_load(await self._source.snapshot())


def _interval_seconds(request: pb.WatchLoadRequest) -> float:
    milliseconds = request.interval_ms or DEFAULT_INTERVAL_MS
    if not MIN_INTERVAL_MS <= milliseconds <= MAX_INTERVAL_MS:
        raise InvalidRequestError(
            f"interval_ms is {milliseconds}; it must be from {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}, or 0 for "
            f"{DEFAULT_INTERVAL_MS}"
        )
    return milliseconds / 1000
