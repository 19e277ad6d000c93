"""The load of a gateway as JSON. Knows the messages and the clock, not who asks."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from google.protobuf.json_format import MessageToJson

from expertmesh.gateway.api.load_rates import rates
from expertmesh.v1 import load_pb2 as pb

ReadLoad = Callable[[], Awaitable[pb.GetLoadResponse]]


async def measure_load(read: ReadLoad, seconds: float) -> str:
    """Measure for ``seconds``; returns the load at their end with its rates: a WatchLoadResponse in proto3's JSON."""
    before, since = await read(), time.monotonic()
    await asyncio.sleep(seconds)
    after = await read()
    update = pb.WatchLoadResponse(load=after, rates=rates(before, after, time.monotonic() - since))
    return MessageToJson(
        update, indent=None, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
