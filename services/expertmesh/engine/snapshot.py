"""What the engine has counted and holds at one moment, as plain values. Knows where they come from, not who reads them.

A snapshot outlives the engine and can be sent elsewhere: it holds no object that goes on changing.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from expertmesh.counting.histogram import HistogramSnapshot
from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.request import Caller
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.stats import EngineStats, KeyCounts, counted_as


@dataclass(frozen=True)
class KeySnapshot:
    """Sequences of one key now, and what there was of them since the start, as ``KeyCounts`` has it."""

    num_running: int
    num_waiting: int
    num_finished: int
    num_prompt_tokens: int
    num_generation_tokens: int


@dataclass(frozen=True)
class EngineSnapshot:
    """Sequences and cache now; the rest are counts since the start, as ``EngineStats`` has them.

    ``kv_cache_usage`` is the share of blocks that are held, 0 to 1. ``num_finished`` are sequences that ended, by the
    value of their ``Outcome``; ``num_rejected`` are requests that were refused, by why. ``of_keys`` is by key's id.
    """

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    num_prompt_tokens: int
    num_generation_tokens: int
    num_looked_up_tokens: int
    num_cached_tokens: int
    num_drafted_tokens: int
    num_accepted_tokens: int
    num_preemptions: int
    num_finished: Mapping[str, int]
    num_rejected: Mapping[str, int]
    of_keys: Mapping[str, KeySnapshot]
    time_to_first_token: HistogramSnapshot
    inter_token_latency: HistogramSnapshot
    time_per_output_token: HistogramSnapshot
    request_seconds: HistogramSnapshot
    queue_seconds: HistogramSnapshot
    prompt_lengths: HistogramSnapshot
    answer_lengths: HistogramSnapshot
    step_seconds: HistogramSnapshot
    step_rows: HistogramSnapshot


def take_engine_snapshot(stats: EngineStats, scheduler: Scheduler, blocks: BlockPool) -> EngineSnapshot:
    """Copy what the parts of an engine count."""
    return EngineSnapshot(
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        kv_cache_usage=blocks.usage,
        num_prompt_tokens=stats.num_prompt_tokens,
        num_generation_tokens=stats.num_generation_tokens,
        num_looked_up_tokens=stats.num_looked_up_tokens,
        num_cached_tokens=stats.num_cached_tokens,
        num_drafted_tokens=stats.num_drafted_tokens,
        num_accepted_tokens=stats.num_accepted_tokens,
        num_preemptions=stats.num_preemptions,
        num_finished={outcome.value: count for outcome, count in stats.num_finished.items()},
        num_rejected=dict(stats.num_rejected),
        of_keys=_take_keys(stats, scheduler),
        time_to_first_token=stats.time_to_first_token.snapshot(),
        inter_token_latency=stats.inter_token_latency.snapshot(),
        time_per_output_token=stats.time_per_output_token.snapshot(),
        request_seconds=stats.request_seconds.snapshot(),
        queue_seconds=stats.queue_seconds.snapshot(),
        prompt_lengths=stats.prompt_lengths.snapshot(),
        answer_lengths=stats.answer_lengths.snapshot(),
        step_seconds=stats.step_seconds.snapshot(),
        step_rows=stats.step_rows.snapshot(),
    )


def _take_keys(stats: EngineStats, scheduler: Scheduler) -> dict[str, KeySnapshot]:
    running, waiting = _by_key(scheduler.count_running()), _by_key(scheduler.count_waiting())
    counts = dict(stats.of_keys)
    return {
        key: KeySnapshot(running[key], waiting[key], **vars(counts.get(key, KeyCounts())))
        for key in sorted({*counts, *running, *waiting})
    }


def _by_key(of_callers: Counter[Caller]) -> Counter[str]:
    of_keys: Counter[str] = Counter()
    for caller, number in of_callers.items():
        of_keys[counted_as(caller)] += number
    return of_keys
