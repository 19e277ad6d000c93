"""Which metrics are exported. Knows settings, not who counts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricsConfig:
    """What to export besides: a series per layer and expert, the engine's metrics under vLLM's names too."""

    by_layer: bool = False
    vllm_names: bool = False
