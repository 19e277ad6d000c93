"""What a gateway tells about how busy its experts are. Knows no transport."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ReplicaState = Literal["ready", "connecting", "ejected", "retired", "unknown"]
"""Whether a replica can be called; "unknown" is a state that this client has no word for."""


@dataclass(frozen=True)
class ExpertLoad:
    """What one expert was sent and still owes; fields as in load.proto."""

    expert: int
    tokens: int
    tokens_by_layer: tuple[int, ...]
    share: float
    inflight_rows: int
    ready_replicas: int
    queue_rows: int
    demand_rows: float
    latency_p50_ns: int
    latency_p99_ns: int
    retries: int
    replicas: Mapping[ReplicaState, int]


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
    latency_p99_ns: int
    queue_p50_ns: int
    compute_p50_ns: int
    state: ReplicaState


@dataclass(frozen=True)
class GatewayLoad:
    """What the gateway as a whole does; fields as in load.proto."""

    running: int
    waiting: int
    kv_cache_usage: float
    prompt_tokens: int
    generation_tokens: int
    prefix_cache_query_tokens: int
    prefix_cache_hit_tokens: int
    preemptions: int


@dataclass(frozen=True)
class Load:
    """How the gate spread the tokens since the gateway started."""

    experts: tuple[ExpertLoad, ...]
    replicas: tuple[ReplicaLoad, ...]
    balancedness: float
    gateway: GatewayLoad


@dataclass(frozen=True)
class ExpertRates:
    """What one expert was sent per second; fields as in load.proto."""

    expert: int
    tokens_per_second: float
    tokens_per_second_by_layer: tuple[float, ...]
    share: float


@dataclass(frozen=True)
class LoadRates:
    """What happened per second in the ``seconds`` before; fields as in load.proto."""

    seconds: float
    prompt_tokens_per_second: float
    generation_tokens_per_second: float
    experts: tuple[ExpertRates, ...]
    balancedness: float


@dataclass(frozen=True)
class LoadUpdate:
    """One of a stream of loads, with the rates since the one before; the first has none."""

    load: Load
    rates: LoadRates | None
