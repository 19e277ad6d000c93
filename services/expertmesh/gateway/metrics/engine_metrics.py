"""The engine in Prometheus's words: requests, tokens, latencies, steps, cache. Knows counts, not how they arise."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from expertmesh.engine.snapshot import EngineSnapshot
from expertmesh.gateway.metrics.families import counter, counters, gauge, histogram


class EngineCollector(Collector):
    """Tells what the engine had counted at one moment."""

    def __init__(self, engine: EngineSnapshot) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield every family; sequences are one per answer, so a request for n answers has n."""
        yield from _latencies(self._engine)
        yield from _requests(self._engine)
        yield from _tokens(self._engine)
        yield from _now(self._engine)


def _latencies(engine: EngineSnapshot) -> Iterator[Metric]:
    yield histogram(
        "expertmesh_time_to_first_token_seconds", "From arrival to the first token.", engine.time_to_first_token
    )
    yield histogram(
        "expertmesh_inter_token_latency_seconds",
        "Gap between two tokens of a sequence; 0 for tokens of one step.",
        engine.inter_token_latency,
    )
    yield histogram(
        "expertmesh_time_per_output_token_seconds",
        "Mean gap of a complete answer, its first token left out.",
        engine.time_per_output_token,
    )
    yield histogram(
        "expertmesh_request_seconds", "From arrival to the last token of a complete answer.", engine.request_seconds
    )
    yield histogram("expertmesh_request_queue_seconds", "From arrival to the first step.", engine.queue_seconds)
    yield histogram("expertmesh_step_seconds", "One step of the engine, over all sequences in it.", engine.step_seconds)


def _requests(engine: EngineSnapshot) -> Iterator[Metric]:
    yield counters(
        "expertmesh_requests_total",
        "Sequences that ended, by why.",
        "finish_reason",
        engine.num_finished,
    )
    yield counters(
        "expertmesh_requests_rejected_total", "Requests that the engine refused, by why.", "reason", engine.num_rejected
    )
    yield counter(
        "expertmesh_preemptions_total",
        "Times a running sequence gave its KV cache back and was computed again.",
        engine.num_preemptions,
    )
    yield histogram("expertmesh_request_prompt_tokens", "Prompt of a complete answer.", engine.prompt_lengths)
    yield histogram("expertmesh_request_generation_tokens", "Length of a complete answer.", engine.answer_lengths)


def _tokens(engine: EngineSnapshot) -> Iterator[Metric]:
    yield counter(
        "expertmesh_prompt_tokens_total", "Prompt tokens of sequences with a first token.", engine.num_prompt_tokens
    )
    yield counter("expertmesh_generation_tokens_total", "Tokens produced.", engine.num_generation_tokens)
    yield counter(
        "expertmesh_prefix_cache_query_tokens_total",
        "Prompt tokens looked up in the prefix cache.",
        engine.num_looked_up_tokens,
    )
    yield counter("expertmesh_prefix_cache_hit_tokens_total", "Prompt tokens found there.", engine.num_cached_tokens)
    yield counter("expertmesh_speculative_draft_tokens_total", "Tokens guessed.", engine.num_drafted_tokens)
    yield counter("expertmesh_speculative_accepted_tokens_total", "Tokens guessed right.", engine.num_accepted_tokens)
    yield histogram("expertmesh_step_tokens", "Rows of one step, guesses included.", engine.step_rows)


def _now(engine: EngineSnapshot) -> Iterator[Metric]:
    yield gauge("expertmesh_running_requests", "Sequences that are being computed.", engine.num_running)
    yield gauge("expertmesh_waiting_requests", "Sequences that wait to be computed.", engine.num_waiting)
    yield gauge(
        "expertmesh_kv_cache_usage_ratio", "Blocks of the KV cache that sequences hold, 0 to 1.", engine.kv_cache_usage
    )
