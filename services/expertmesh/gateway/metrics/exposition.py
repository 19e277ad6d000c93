"""Everything that a gateway tells Prometheus, put together. Knows collectors, not who counts."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from expertmesh.gateway.metrics.config import MetricsConfig
from expertmesh.gateway.metrics.engine_metrics import EngineCollector
from expertmesh.gateway.metrics.families import counters
from expertmesh.gateway.metrics.key_metrics import KeyCollector
from expertmesh.gateway.metrics.mesh_metrics import MeshCollector
from expertmesh.gateway.metrics.vllm_names import VllmNames
from expertmesh.gateway.snapshot import Snapshot, SnapshotSource
from expertmesh.wire.model_info import ModelInfo

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The metrics of one gateway: those of ``source``, and what it serves; ``get_model`` raises StillLoadingError."""

    def __init__(self, source: SnapshotSource, get_model: Callable[[], ModelInfo], config: MetricsConfig) -> None:
        self._source = source
        self._get_model = get_model
        self._config = config

    async def render(self) -> bytes:
        """Write all metrics as they are now in Prometheus's text format (``CONTENT_TYPE``)."""
        return b"".join(map(generate_latest, self._collectors(await self._source.snapshot(), self._get_model())))

    def _collectors(self, snapshot: Snapshot, model: ModelInfo) -> Iterator[Collector]:
        engine = EngineCollector(snapshot.engine)
        yield engine
        yield KeyCollector(snapshot.engine.of_keys)
        yield MeshCollector(snapshot.mesh, self._config.by_layer)
        yield _RefusedCollector(snapshot.num_refused)
        yield _BuildCollector(model)
        if self._config.vllm_names:
            yield VllmNames(engine, model.name)


class _RefusedCollector(Collector):
    def __init__(self, num_refused: Mapping[str, int]) -> None:
        self._num_refused = num_refused

    def collect(self) -> Iterator[Metric]:
        """Yield the callers who were sent away."""
        yield counters(
            "expertmesh_refused_callers_total",
            "Requests without a key that is good for them.",
            "reason",
            self._num_refused,
        )


class _BuildCollector(Collector):
    def __init__(self, model: ModelInfo) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """Yield what runs and what it serves."""
        yield InfoMetricFamily("expertmesh_build", "Version of the gateway, and its model.", _labels(self._model))


def _labels(model: ModelInfo) -> dict[str, str]:
    return {
        "version": model.version,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "weight_format": model.weight_format,
    }
