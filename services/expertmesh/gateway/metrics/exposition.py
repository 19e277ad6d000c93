"""Everything that a gateway tells Prometheus, put together. Knows collectors, not who counts."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Info
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from expertmesh.gateway.metrics.config import MetricsConfig
from expertmesh.gateway.metrics.engine_metrics import EngineCollector
from expertmesh.gateway.metrics.mesh_metrics import MeshCollector
from expertmesh.gateway.metrics.vllm_names import VllmNames
from expertmesh.gateway.snapshot import Snapshot, SnapshotSource
from expertmesh.wire.model_info import ModelInfo

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The metrics of one gateway: those of ``source``, and beside them what this process counts in ``registry``."""

    def __init__(
        self, registry: CollectorRegistry, source: SnapshotSource, model: ModelInfo, config: MetricsConfig
    ) -> None:
        self._registry = registry
        self._source = source
        self._model = model
        self._config = config
        Info("expertmesh_build", "Version of the gateway, and its model.", registry=registry).info(_labels(model))

    async def render(self) -> bytes:
        """Write all metrics as they are now in Prometheus's text format (``CONTENT_TYPE``)."""
        return b"".join(map(generate_latest, self._collectors(await self._source.snapshot())))

    def _collectors(self, snapshot: Snapshot) -> Iterator[Collector]:
        engine = EngineCollector(snapshot.engine)
        yield engine
        yield MeshCollector(snapshot.mesh, self._config.by_layer)
        yield self._registry
        if self._config.vllm_names:
            yield VllmNames(engine, self._model.name)


def _labels(model: ModelInfo) -> dict[str, str]:
    return {
        "version": model.version,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "weight_format": model.weight_format,
    }
