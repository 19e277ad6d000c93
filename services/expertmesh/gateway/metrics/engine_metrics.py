"""The engine in Prometheus's words: requests, tokens, latencies, steps, cache. Knows counts, not how they arise."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from expertmesh.engine.stats import EngineStats
from expertmesh.gateway.metrics.families import counter, counters, gauge, histogram
from expertmesh.gateway.state import GatewayState


class EngineCollector(Collector):
    """Reads the engine's counts whenever Prometheus asks."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield every family; sequences are one per answer, so a request for n answers has n."""
        yield from _latencies(self._state.stats)
        yield from _requests(self._state.stats)
        yield from _tokens(self._state.stats)
        yield from self._now()

    def _now(self) -> Iterator[Metric]:
        scheduler = self._state.scheduler
        yield gauge("expertmesh_running_requests", "Sequences that are being computed.", scheduler.num_running)
        yield gauge("expertmesh_waiting_requests", "Sequences that wait to be computed.", scheduler.num_waiting)
        yield gauge(
            "expertmesh_kv_cache_usage_ratio",
            "Blocks of the KV cache that sequences hold, 0 to 1.",
            self._state.blocks.usage,
        )


def _latencies(stats: EngineStats) -> Iterator[Metric]:
    yield histogram(
        "expertmesh_time_to_first_token_seconds", "From arrival to the first token.", stats.time_to_first_token
    )
    yield histogram(
        "expertmesh_inter_token_latency_seconds",
        "Gap between two tokens of a sequence; 0 for tokens of one step.",
        stats.inter_token_latency,
    )
    yield histogram(
        "expertmesh_time_per_output_token_seconds",
        "Mean gap of a complete answer, its first token left out.",
        stats.time_per_output_token,
    )
    yield histogram(
        "expertmesh_request_seconds", "From arrival to the last token of a complete answer.", stats.request_seconds
    )
    yield histogram("expertmesh_request_queue_seconds", "From arrival to the first step.", stats.queue_seconds)
    yield histogram("expertmesh_step_seconds", "One step of the engine, over all sequences in it.", stats.step_seconds)


def _requests(stats: EngineStats) -> Iterator[Metric]:
    yield counters(
        "expertmesh_requests_total",
        "Sequences that ended, by why.",
        "finish_reason",
        {outcome.value: count for outcome, count in stats.num_finished.items()},
    )
    yield counters(
        "expertmesh_requests_rejected_total", "Requests that the engine refused, by why.", "reason", stats.num_rejected
    )
    yield counter(
        "expertmesh_preemptions_total",
        "Times a running sequence gave its KV cache back and was computed again.",
        stats.num_preemptions,
    )
    yield histogram("expertmesh_request_prompt_tokens", "Prompt of a complete answer.", stats.prompt_lengths)
    yield histogram("expertmesh_request_generation_tokens", "Length of a complete answer.", stats.answer_lengths)


def _tokens(stats: EngineStats) -> Iterator[Metric]:
    yield counter(
        "expertmesh_prompt_tokens_total", "Prompt tokens of sequences with a first token.", stats.num_prompt_tokens
    )
    yield counter("expertmesh_generation_tokens_total", "Tokens produced.", stats.num_generation_tokens)
    yield counter(
        "expertmesh_prefix_cache_query_tokens_total",
        "Prompt tokens looked up in the prefix cache.",
        stats.num_looked_up_tokens,
    )
    yield counter("expertmesh_prefix_cache_hit_tokens_total", "Prompt tokens found there.", stats.num_cached_tokens)
    yield counter("expertmesh_speculative_draft_tokens_total", "Tokens guessed.", stats.num_drafted_tokens)
    yield counter("expertmesh_speculative_accepted_tokens_total", "Tokens guessed right.", stats.num_accepted_tokens)
    yield histogram("expertmesh_step_tokens", "Rows of one step, guesses included.", stats.step_rows)
