"""The logits of a checkpoint whose experts are real servers, beside those of transformers."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import torch
from integration_mesh import start_expert
from oracle import oracle

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.cli.local_servers import place_experts
from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.mesh.dispatcher import RemoteExperts
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.pool import ReplicaPool
from expertmesh.model.batch import StepBatch
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import Experts
from expertmesh.model.kv_cache import KVCache

NUM_TOKENS = 21
REFERENCE, CPU = ReferenceBackend(torch.device("cpu")), CpuBackend()
TOKENS = torch.randint(0, 128, (NUM_TOKENS,), generator=torch.Generator().manual_seed(0))


async def with_servers(directory: Path, use, num_servers: int = 2, **server_config) -> torch.Tensor:
    """Run ``use(remote experts, checkpoint, config)`` with ``num_servers`` expert servers, or one for a dense model.

    They run on the reference, which is as exact as float32, unless ``server_config`` names another backend.
    """
    checkpoint = Checkpoint.open(directory, server_config.get("round_to_bits"))
    config = checkpoint.model
    hosts = place_experts(config.num_experts, min(num_servers, config.num_experts), {})
    async with AsyncExitStack() as stack:
        settings = {"backend": "reference", **server_config}
        servers = [await start_expert(directory, experts, **settings) for experts in hosts]
        for stop, _ in servers:
            stack.push_async_callback(stop.aclose)
        pool = ReplicaPool(StaticDiscovery(frozenset(address for _, address in servers)), fingerprint(checkpoint))
        task = asyncio.create_task(pool.run())
        try:
            async with asyncio.timeout(30):
                await pool.wait_until(lambda: not pool.missing(config.num_experts))
            load = ExpertLoadCounter(config.num_layers, config.num_experts)
            remote = RemoteExperts(pool.roster, DispatchConfig(), load)
            return await asyncio.to_thread(use, remote, checkpoint, config)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def logits(experts: Experts, checkpoint: Checkpoint, config: ModelConfig, backend: Backend = REFERENCE) -> torch.Tensor:
    """Prefill TOKENS; returns [T, V]."""
    decoder = Decoder.load(config, checkpoint, backend, torch.float32)
    cache = KVCache(config, 1, NUM_TOKENS, torch.float32, backend.device)
    positions = torch.arange(NUM_TOKENS)
    batch = StepBatch(TOKENS, positions, positions, (NUM_TOKENS,), (NUM_TOKENS,), torch.zeros(1, 1).long(), positions)
    return decoder.forward(batch, cache, experts)


def assert_equals_transformers(made, use=logits, max_error: float = 1e-5, **server_config) -> None:
    found = asyncio.run(with_servers(made.directory, use, **server_config))
    with torch.no_grad():
        expected = oracle(made)(TOKENS[None]).logits[0]
    assert ((found - expected).norm() / expected.norm()).item() <= max_error
