"""Experts and their replicas in Prometheus's words, as the gateway sees them. Knows counts, not how calls are made."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from expertmesh.gateway.metrics.families import counters, expert_counters, expert_gauges, expert_histograms, gauge
from expertmesh.mesh.expert_load import balancedness, shares
from expertmesh.mesh.snapshot import MeshSnapshot


class MeshCollector(Collector):
    """Tells the counts per expert at one moment; ``by_layer`` adds a series per layer and expert."""

    def __init__(self, mesh: MeshSnapshot, by_layer: bool) -> None:
        self._mesh = mesh
        self._by_layer = by_layer

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from _tokens(self._mesh)
        if self._by_layer:
            yield _layer_tokens(self._mesh)
        yield from _rows(self._mesh)
        yield from _calls(self._mesh)
        yield _replicas(self._mesh)
        yield gauge(
            "expertmesh_endpoint_watch_age_seconds",
            "Since the source of endpoints last confirmed what it said.",
            self._mesh.watch_age_seconds,
        )


def _tokens(mesh: MeshSnapshot) -> Iterator[Metric]:
    totals = [expert.tokens for expert in mesh.experts]
    yield expert_counters(
        "expertmesh_expert_tokens_total", "Rows that the gate sent to an expert, over all layers.", totals
    )
    yield expert_gauges("expertmesh_expert_share_ratio", "Its share of all rows since the start.", shares(totals))
    yield gauge(
        "expertmesh_expert_balancedness_ratio",
        "Mean over the experts of their rows, divided by the greatest: 1 = even.",
        balancedness(totals),
    )


def _layer_tokens(mesh: MeshSnapshot) -> Metric:
    family = CounterMetricFamily(
        "expertmesh_expert_layer_tokens_total",
        "Rows that the gate of one layer sent to an expert.",
        labels=["layer", "expert"],
    )
    for number, expert in enumerate(mesh.experts):
        for layer, tokens in enumerate(expert.tokens_by_layer):
            family.add_metric([str(layer), str(number)], tokens)
    return family


def _rows(mesh: MeshSnapshot) -> Iterator[Metric]:
    experts = mesh.experts
    yield expert_gauges(
        "expertmesh_expert_inflight_rows",
        "Rows sent and not yet answered.",
        [expert.inflight_rows for expert in experts],
    )
    yield expert_gauges(
        "expertmesh_expert_queue_rows",
        "Rows that wait here until a replica can take them.",
        [expert.queue_rows for expert in experts],
    )
    yield expert_gauges(
        "expertmesh_expert_demand_rows",
        "Rows in flight and waiting, averaged over the last seconds: what replicas are scaled by.",
        [expert.demand_rows for expert in experts],
    )


def _calls(mesh: MeshSnapshot) -> Iterator[Metric]:
    experts = mesh.experts
    yield expert_histograms(
        "expertmesh_expert_rpc_seconds",
        "From sending a call to its answer.",
        [expert.rpc_seconds for expert in experts],
    )
    yield expert_histograms(
        "expertmesh_expert_batch_rows", "Rows of one call.", [expert.call_rows for expert in experts]
    )
    yield expert_counters(
        "expertmesh_expert_retries_total",
        "Calls that failed and were sent again.",
        [expert.num_retries for expert in experts],
    )
    yield expert_counters(
        "expertmesh_expert_damaged_total",
        "Calls or answers that arrived with other bytes than were sent, and were sent again.",
        [expert.num_damaged for expert in experts],
    )
    yield expert_counters(
        "expertmesh_expert_hedged_calls_total",
        "Calls that were sent to a second replica while the first still owed the answer.",
        [expert.num_hedged for expert in experts],
    )
    yield expert_counters(
        "expertmesh_expert_dropped_rows_total",
        "Rows that were computed without an expert that they had chosen, as it had no replica.",
        [expert.num_dropped for expert in experts],
    )
    yield counters(
        "expertmesh_expert_bytes_total",
        "Bytes of the tensors of all calls.",
        "direction",
        {"sent": mesh.sent_bytes, "received": mesh.received_bytes},
    )


def _replicas(mesh: MeshSnapshot) -> Metric:
    family = GaugeMetricFamily("expertmesh_expert_replicas", "Known replicas of an expert.", labels=["expert", "state"])
    for number, expert in enumerate(mesh.experts):
        for state, count in expert.replicas.items():
            family.add_metric([str(number), state.value], count)
    return family
