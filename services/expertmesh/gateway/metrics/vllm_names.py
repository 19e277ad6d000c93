"""Our metrics once more under the names that dashboards for vLLM ask for. Knows names, not values.

Names are those of vLLM's v1 engine (its documentation, "Production Metrics").
"""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from expertmesh.engine.request import FinishReason

NAMES = {
    "expertmesh_running_requests": "vllm:num_requests_running",
    "expertmesh_waiting_requests": "vllm:num_requests_waiting",
    "expertmesh_kv_cache_usage_ratio": "vllm:kv_cache_usage_perc",
    "expertmesh_preemptions": "vllm:num_preemptions",
    "expertmesh_prefix_cache_query_tokens": "vllm:prefix_cache_queries",
    "expertmesh_prefix_cache_hit_tokens": "vllm:prefix_cache_hits",
    "expertmesh_prompt_tokens": "vllm:prompt_tokens",
    "expertmesh_generation_tokens": "vllm:generation_tokens",
    "expertmesh_speculative_draft_tokens": "vllm:spec_decode_num_draft_tokens",
    "expertmesh_speculative_accepted_tokens": "vllm:spec_decode_num_accepted_tokens",
    "expertmesh_requests": "vllm:request_success",
    "expertmesh_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "expertmesh_inter_token_latency_seconds": "vllm:inter_token_latency_seconds",
    "expertmesh_time_per_output_token_seconds": "vllm:request_time_per_output_token_seconds",
    "expertmesh_request_seconds": "vllm:e2e_request_latency_seconds",
    "expertmesh_request_queue_seconds": "vllm:request_queue_time_seconds",
    "expertmesh_request_prompt_tokens": "vllm:request_prompt_tokens",
    "expertmesh_request_generation_tokens": "vllm:request_generation_tokens",
    "expertmesh_step_tokens": "vllm:iteration_tokens_total",
}
# vLLM counts complete answers only.
FINISH_REASONS = {reason.value for reason in FinishReason}


class VllmNames(Collector):
    """Yields the families of ``source`` that have a name there, with the label that vLLM gives all of its series."""

    def __init__(self, source: Collector, model_name: str) -> None:
        self._source = source
        self._labels = {"model_name": model_name}

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has another name."""
        for family in self._source.collect():
            if family.name in NAMES:
                yield self._rename(family, NAMES[family.name])

    def _rename(self, family: Metric, name: str) -> Metric:
        renamed = Metric(name, family.documentation, family.type)
        for sample in family.samples:
            if (labels := _translate(sample.labels)) is not None:
                renamed.add_sample(
                    name + sample.name.removeprefix(family.name), {**self._labels, **labels}, sample.value
                )
        return renamed


def _translate(labels: dict[str, str]) -> dict[str, str] | None:
    """Rename the label of why a sequence ended; None for a sample that has no counterpart."""
    reason = labels.get("finish_reason")
    if reason is None:
        return labels
    return {"finished_reason": reason} if reason in FINISH_REASONS else None
