"""Experts and their replicas in Prometheus's words, as the gateway sees them. Knows counts, not how calls are made."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from expertmesh.gateway.metrics.families import counters, expert_counters, expert_gauges, expert_histograms, gauge
from expertmesh.gateway.state import GatewayState
from expertmesh.mesh.expert_load import ExpertLoadCounter, balancedness, shares


class MeshCollector(Collector):
    """Reads the counts per expert whenever Prometheus asks; ``by_layer`` adds a series per layer and expert."""

    def __init__(self, state: GatewayState, by_layer: bool) -> None:
        self._state = state
        self._by_layer = by_layer

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        load = self._state.expert_load
        yield from _tokens(load)
        if self._by_layer:
            yield _layer_tokens(load)
        yield from _rows(load)
        yield from _calls(load)
        yield self._replicas()
        yield gauge(
            "expertmesh_endpoint_watch_age_seconds",
            "Since the source of endpoints last confirmed what it said.",
            self._state.watch_age_seconds,
        )

    def _replicas(self) -> Metric:
        family = GaugeMetricFamily(
            "expertmesh_expert_replicas", "Known replicas of an expert.", labels=["expert", "state"]
        )
        for expert in range(self._state.expert_load.num_experts):
            for state, count in self._state.count_replicas(expert).items():
                family.add_metric([str(expert), state.value], count)
        return family


def _tokens(load: ExpertLoadCounter) -> Iterator[Metric]:
    totals = load.totals()
    yield expert_counters(
        "expertmesh_expert_tokens_total", "Rows that the gate sent to an expert, over all layers.", totals
    )
    yield expert_gauges("expertmesh_expert_share_ratio", "Its share of all rows since the start.", shares(totals))
    yield gauge(
        "expertmesh_expert_balancedness_ratio",
        "Mean over the experts of their rows, divided by the greatest: 1 = even.",
        balancedness(totals),
    )


def _layer_tokens(load: ExpertLoadCounter) -> Metric:
    family = CounterMetricFamily(
        "expertmesh_expert_layer_tokens_total",
        "Rows that the gate of one layer sent to an expert.",
        labels=["layer", "expert"],
    )
    for expert in range(load.num_experts):
        for layer, tokens in enumerate(load.by_layer(expert)):
            family.add_metric([str(layer), str(expert)], tokens)
    return family


def _rows(load: ExpertLoadCounter) -> Iterator[Metric]:
    yield expert_gauges("expertmesh_expert_inflight_rows", "Rows sent and not yet answered.", load.inflight_rows)
    yield expert_gauges(
        "expertmesh_expert_queue_rows", "Rows that wait here until a replica can take them.", load.queue_rows
    )
    yield expert_gauges(
        "expertmesh_expert_demand_rows",
        "Rows in flight and waiting, averaged over the last seconds: what replicas are scaled by.",
        map(load.demand_rows, range(load.num_experts)),
    )


def _calls(load: ExpertLoadCounter) -> Iterator[Metric]:
    yield expert_histograms("expertmesh_expert_rpc_seconds", "From sending a call to its answer.", load.rpc_seconds)
    yield expert_histograms("expertmesh_expert_batch_rows", "Rows of one call.", load.call_rows)
    yield expert_counters("expertmesh_expert_retries_total", "Calls that failed and were sent again.", load.num_retries)
    yield counters(
        "expertmesh_expert_bytes_total",
        "Bytes of the tensors of all calls.",
        "direction",
        {"sent": load.sent_bytes, "received": load.received_bytes},
    )
