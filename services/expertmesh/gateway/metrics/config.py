"""Which metrics are exported. Knows settings, not who counts."""

from dataclasses import dataclass

from expertmesh.settings.flags import LOGGING, Flag, setting

_BY_LAYER = Flag(
    LOGGING,
    "METRICS_BY_LAYER",
    "Export the rows of every expert layer by layer too: 256 more series for Mixtral.",
)
_VLLM_NAMES = Flag(
    LOGGING,
    "VLLM_METRICS",
    "Export the engine's metrics under vLLM's names too, for dashboards that are there already.",
)


@dataclass(frozen=True)
class MetricsConfig:
    """What to export besides: a series per layer and expert, the engine's metrics under vLLM's names too."""

    by_layer: bool = setting(False, _BY_LAYER)
    vllm_names: bool = setting(False, _VLLM_NAMES)
