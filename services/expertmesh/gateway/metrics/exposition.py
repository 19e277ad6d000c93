"""Everything that a gateway tells Prometheus, put together. Knows collectors, not what they read."""

from prometheus_client import CollectorRegistry, Info
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from expertmesh.gateway.metrics.config import MetricsConfig
from expertmesh.gateway.metrics.engine_metrics import EngineCollector
from expertmesh.gateway.metrics.mesh_metrics import MeshCollector
from expertmesh.gateway.metrics.vllm_names import VllmNames
from expertmesh.gateway.state import GatewayState
from expertmesh.wire.model_info import ModelInfo

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The metrics of one gateway in ``registry``, and beside it those under vLLM's names."""

    def __init__(
        self, registry: CollectorRegistry, state: GatewayState, model: ModelInfo, config: MetricsConfig
    ) -> None:
        engine = EngineCollector(state)
        registry.register(engine)
        registry.register(MeshCollector(state, config.by_layer))
        Info("expertmesh_build", "Version of the gateway, and its model.", registry=registry).info(_labels(model))
        self._registries = [registry]
        if config.vllm_names:
            self._registries.append(CollectorRegistry())
            self._registries[-1].register(VllmNames(engine, model.name))

    def render(self) -> bytes:
        """Write all metrics in Prometheus's text format (``CONTENT_TYPE``); call it in the event loop."""
        return b"".join(map(generate_latest, self._registries))


def _labels(model: ModelInfo) -> dict[str, str]:
    return {
        "version": model.version,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "weight_format": model.weight_format,
    }
