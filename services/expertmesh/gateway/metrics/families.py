"""Plain counts as Prometheus families. Knows the library's types, none of our names."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from expertmesh.counting.histogram import HistogramSnapshot


def counter(name: str, text: str, value: float) -> CounterMetricFamily:
    """Return a counter without labels."""
    return CounterMetricFamily(name, text, value)


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value)


def histogram(name: str, text: str, values: HistogramSnapshot) -> HistogramMetricFamily:
    """Return a histogram without labels."""
    return HistogramMetricFamily(name, text, _buckets(values), values.sum)


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    """Return a counter with one label and a value for each of its values."""
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Return a gauge with one label and a value for each of its values."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def expert_counters(name: str, text: str, values: Iterable[float]) -> CounterMetricFamily:
    """Return a counter per expert, expert 0 first."""
    return counters(name, text, "expert", {str(expert): value for expert, value in enumerate(values)})


def expert_gauges(name: str, text: str, values: Iterable[float]) -> GaugeMetricFamily:
    """Return a gauge per expert, expert 0 first."""
    return gauges(name, text, "expert", {str(expert): value for expert, value in enumerate(values)})


def expert_histograms(name: str, text: str, values: Iterable[HistogramSnapshot]) -> HistogramMetricFamily:
    """Return a histogram per expert, expert 0 first."""
    family = HistogramMetricFamily(name, text, labels=["expert"])
    for expert, histogram in enumerate(values):
        family.add_metric([str(expert)], _buckets(histogram), histogram.sum)
    return family


def _buckets(values: HistogramSnapshot) -> list[tuple[str, float]]:
    """Add the counts up, as Prometheus wants them: each bucket holds those below it too."""
    names = [*(str(float(bound)) for bound in values.bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(values.counts)), strict=True))
