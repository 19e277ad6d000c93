import asyncio

import pytest
from integration_mesh import run_mesh
from serving.timed_gateway import DECODER_PARTS, Stopwatch
from serving.trace import Trace, length, shares

from expertmesh.client import Sampling
from expertmesh.engine.runner import ModelRunner
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.layer_step import LayerStep
from expertmesh.model.decoder import Decoder
from expertmesh.model.sampler import Sampler

WRAPPED = [(Decoder, name) for name in DECODER_PARTS] + [
    (Sampler, "sample"),
    (RemoteExperts, "begin"),
    (LayerStep, "finish"),
    (ModelRunner, "run"),
]


@pytest.fixture
def trace(monkeypatch):
    """A trace of what this process computes; the functions are bare again afterwards."""
    for owner, name in WRAPPED:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    trace = Trace()
    Stopwatch(trace).attach()
    return trace


def test_the_steps_of_a_mesh_are_timed(trace, make_mixtral):
    async def generate():
        async with run_mesh(make_mixtral().directory) as mesh:
            sampling = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True)
            return [piece async for piece in mesh.client.generate([5, 6, 7], sampling)]

    asyncio.run(generate())
    num_layers = len(trace.rpc) // 2 // len(trace.steps)  # each asked, then awaited
    assert [step[1:3] for step in trace.steps] == [(1, 3), *[(1, 1)] * 5]
    num_parts = num_layers + 4  # embedding, angles, layers, head, sampler
    assert len(trace.torch) == len(trace.steps) * num_parts
    assert length(trace.torch) + length(trace.rpc) == pytest.approx(length(trace.torch + trace.rpc))
    parts = shares(trace, batch=1)
    assert parts.num_steps == 4
    assert parts.loop > 0
    assert parts.step == pytest.approx(parts.torch + parts.rpc + parts.neither)
