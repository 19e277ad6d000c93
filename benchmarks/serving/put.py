"""A load put on a server, from its first warm-up request to its last answer."""

import asyncio

from expertmesh.loadgen.client import Target, connected
from expertmesh.loadgen.load import Load
from expertmesh.loadgen.pacing import Recorder, Run, measure
from expertmesh.loadgen.summary import count_failures


def put(load: Load, target: Target, num_warmup: int) -> Run:
    """Warm the server up, measure it, and say which errors came how often."""
    finished = asyncio.run(_run(load, target, num_warmup))
    for failure in count_failures(finished.answers):
        print(f"{finished.name}: {failure.count} x {failure.error}")
    return finished


async def _run(load: Load, target: Target, num_warmup: int) -> Run:
    recorder = Recorder()
    async with connected(target) as server:
        await measure(server, load, num_warmup, recorder)
    return recorder.run(target.name)
