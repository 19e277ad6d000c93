"""Who uses the gateway, in Prometheus's words: sequences and tokens by key. Knows ids of keys, no key."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from expertmesh.engine.snapshot import KeySnapshot
from expertmesh.gateway.metrics.families import counters, gauges

_LEVELS = {
    "num_running": ("expertmesh_key_running_requests", "Sequences of a key that are being computed."),
    "num_waiting": ("expertmesh_key_waiting_requests", "Sequences of a key that wait to be computed."),
}
_COUNTS = {
    "num_finished": ("expertmesh_key_requests_total", "Sequences of a key that ended."),
    "num_prompt_tokens": (
        "expertmesh_key_prompt_tokens_total",
        "Prompt tokens of a key's sequences with a first token.",
    ),
    "num_generation_tokens": ("expertmesh_key_generation_tokens_total", "Tokens produced for a key."),
}


class KeyCollector(Collector):
    """Tells what the engine had counted of each key at one moment; callers without one count together."""

    def __init__(self, keys: Mapping[str, KeySnapshot]) -> None:
        self._keys = keys

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for field, (name, text) in _LEVELS.items():
            yield gauges(name, text, "key", self._values(field))
        for field, (name, text) in _COUNTS.items():
            yield counters(name, text, "key", self._values(field))

    def _values(self, field: str) -> dict[str, float]:
        return {key: getattr(counts, field) for key, counts in self._keys.items()}
