from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Theirs

from expertmesh.counting.histogram import Histogram
from expertmesh.gateway.metrics.families import expert_histograms, histogram

VALUES = (0.004, 0.01, 0.02, 5.0, 70.0)


class Families:
    def __init__(self, *families):
        self._families = families

    def collect(self):
        return self._families


def test_a_histogram_is_exported_as_the_library_exports_its_own():
    ours, registry = Histogram((0.01, 1, 10)), CollectorRegistry()
    theirs = Theirs("seconds", "Time.", buckets=ours.bounds, registry=registry)
    for value in VALUES:
        ours.observe(value)
        theirs.observe(value)
    exported = generate_latest(Families(histogram("seconds", "Time.", ours.snapshot()))).decode().splitlines()
    expected = generate_latest(registry).decode().splitlines()
    assert exported == [line for line in expected if "_created" not in line]


def test_experts_are_labels():
    busy, idle = Histogram((1,)), Histogram((1,))
    busy.observe(3)
    lines = generate_latest(Families(expert_histograms("rows", "Rows.", [idle.snapshot(), busy.snapshot()]))).decode()
    assert 'rows_sum{expert="0"} 0.0' in lines
    assert 'rows_sum{expert="1"} 3.0' in lines
