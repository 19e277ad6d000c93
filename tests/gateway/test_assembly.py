"""What an engine is made of on a GPU, as far as that shows without one."""

from pathlib import Path
from types import SimpleNamespace

import torch

from expertmesh.engine.scheduler import SchedulerConfig
from expertmesh.engine.sizing import CachePlan
from expertmesh.gateway.assembly import _record_steps
from expertmesh.gateway.config import GatewayConfig
from expertmesh.kernels.reference import ReferenceBackend


def test_steps_of_the_reference_are_not_recorded():
    model = SimpleNamespace(backend=ReferenceBackend(torch.device("cuda")))
    config, scheduling = GatewayConfig(model=Path()), SchedulerConfig(max_num_seqs=4)
    assert config.cuda_graphs
    assert _record_steps(config, model, scheduling, None, CachePlan(8, 16, 64), None) is None
