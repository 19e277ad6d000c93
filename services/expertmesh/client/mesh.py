"""What a gateway tells about itself: its model, and how busy its experts are. Knows no transport."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """The served model; fields as in ``GetModelInfoResponse`` of generation.proto."""

    name: str
    architecture: str
    fingerprint: str
    weight_format: str
    num_layers: int
    hidden_size: int
    num_experts: int
    num_experts_per_token: int
    vocab_size: int
    max_model_len: int
    version: str


@dataclass(frozen=True)
class ExpertLoad:
    """What one expert was sent; fields as in load.proto."""

    expert: int
    tokens: int
    tokens_by_layer: tuple[int, ...]
    share: float
    inflight_rows: int
    ready_replicas: int


@dataclass(frozen=True)
class ReplicaLoad:
    """What one replica did; fields as in load.proto."""

    endpoint: str
    experts: tuple[int, ...]
    ready: bool
    calls: int
    failed_calls: int
    inflight_rows: int
    latency_p50_ns: int


@dataclass(frozen=True)
class Load:
    """How the gate spread the tokens since the gateway started."""

    experts: tuple[ExpertLoad, ...]
    replicas: tuple[ReplicaLoad, ...]
    balancedness: float
