from exposition import Samples
from prometheus_client import generate_latest

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.request import Caller, FinishReason, Request, Sequence
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.snapshot import take_engine_snapshot
from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.metrics.key_metrics import KeyCollector
from expertmesh.model.sampling import SamplingParams

CALLERS = (Caller("1f2e", has_key=True), *(Caller(f"10.0.0.{number}") for number in range(9)))


def test_each_key_has_its_series_and_all_addresses_share_theirs():
    stats, blocks = EngineStats(), BlockPool(64, 16)
    scheduler = Scheduler(SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64), blocks, stats)
    for caller in CALLERS:
        sequence = Sequence(Request((1, 2, 3), SamplingParams(), caller=caller), max_tokens=8, seed=0)
        scheduler.add(sequence)
        stats.arrived(sequence)
    first = scheduler.schedule()[0].sequence
    stats.produced(first, 1)
    scheduler.remove(first)
    stats.finished(first, FinishReason.STOP)
    taken = take_engine_snapshot(stats, scheduler, blocks).of_keys
    samples = Samples(generate_latest(KeyCollector(taken)).decode())
    assert {
        name: (samples[f"expertmesh_key_{name}", "1f2e"], samples[f"expertmesh_key_{name}", "anonymous"])
        for name in (
            "running_requests",
            "waiting_requests",
            "requests_total",
            "prompt_tokens_total",
            "generation_tokens_total",
        )
    } == {
        "running_requests": (0, 3),
        "waiting_requests": (0, 6),
        "requests_total": (1, 0),
        "prompt_tokens_total": (3, 0),
        "generation_tokens_total": (1, 0),
    }
    assert len(samples) == 10
