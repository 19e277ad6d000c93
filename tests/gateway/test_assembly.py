"""What an engine is made of on a GPU, as far as that shows without one."""

import logging
from pathlib import Path
from types import SimpleNamespace

import torch

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.sizing import CachePlan
from expertmesh.gateway.assembly import _plan_cache, _record_steps
from expertmesh.gateway.config import GatewayConfig
from expertmesh.kernels import cuda_devices
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.model.kv_cache import bytes_per_token
from expertmesh.model.recording import buckets
from expertmesh.model.step_memory import plan_steps


def test_steps_of_the_reference_are_not_recorded():
    model = SimpleNamespace(backend=ReferenceBackend(torch.device("cuda")))
    config, scheduling = GatewayConfig(model=Path()), SchedulerConfig(max_num_seqs=4)
    assert config.cuda_graphs
    assert _record_steps(config, model, scheduling, None, CachePlan(8, 16, 64), None) is None


def test_a_cache_leaves_room_for_the_steps_that_will_be_recorded(make_mixtral, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(cuda_devices, "free_bytes", lambda device: 2**30)
    model = SimpleNamespace(
        config=Checkpoint.open(make_mixtral().directory).model,
        dtype=torch.bfloat16,
        local_experts=None,
        backend=SimpleNamespace(device=torch.device("cuda"), can_be_recorded=True),
    )
    scheduling = SchedulerConfig(max_num_seqs=10**6)  # more than there is memory for
    recorded, plain = (
        _plan_cache(GatewayConfig(model=Path(), cuda_graphs=num_rows), model, scheduling) for num_rows in (64, 0)
    )
    memory = plan_steps(
        model.config, model.dtype, buckets(64), -(-model.config.max_position_embeddings // 16), 1, False
    )
    block_bytes = 16 * bytes_per_token(model.config, model.dtype)
    assert plain.num_blocks == 2**30 * 9 // 10 // block_bytes
    assert recorded.num_blocks == (2**30 - memory.total) * 9 // 10 // block_bytes
    assert f"keeping {memory.total / 2**20:.0f} MiB for decode steps" in caplog.text
