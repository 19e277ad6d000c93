from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplicaState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLICA_STATE_UNSPECIFIED: _ClassVar[ReplicaState]
    REPLICA_STATE_READY: _ClassVar[ReplicaState]
    REPLICA_STATE_CONNECTING: _ClassVar[ReplicaState]
    REPLICA_STATE_EJECTED: _ClassVar[ReplicaState]
    REPLICA_STATE_RETIRED: _ClassVar[ReplicaState]
REPLICA_STATE_UNSPECIFIED: ReplicaState
REPLICA_STATE_READY: ReplicaState
REPLICA_STATE_CONNECTING: ReplicaState
REPLICA_STATE_EJECTED: ReplicaState
REPLICA_STATE_RETIRED: ReplicaState

class GetLoadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLoadResponse(_message.Message):
    __slots__ = ("experts", "replicas", "balancedness", "gateway")
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    BALANCEDNESS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    experts: _containers.RepeatedCompositeFieldContainer[ExpertLoad]
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaLoad]
    balancedness: float
    gateway: GatewayLoad
    def __init__(self, experts: _Optional[_Iterable[_Union[ExpertLoad, _Mapping]]] = ..., replicas: _Optional[_Iterable[_Union[ReplicaLoad, _Mapping]]] = ..., balancedness: _Optional[float] = ..., gateway: _Optional[_Union[GatewayLoad, _Mapping]] = ...) -> None: ...

class WatchLoadRequest(_message.Message):
    __slots__ = ("interval_ms",)
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    def __init__(self, interval_ms: _Optional[int] = ...) -> None: ...

class WatchLoadResponse(_message.Message):
    __slots__ = ("load", "rates")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    load: GetLoadResponse
    rates: LoadRates
    def __init__(self, load: _Optional[_Union[GetLoadResponse, _Mapping]] = ..., rates: _Optional[_Union[LoadRates, _Mapping]] = ...) -> None: ...

class LoadRates(_message.Message):
    __slots__ = ("seconds", "prompt_tokens_per_second", "generation_tokens_per_second", "experts", "balancedness")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    BALANCEDNESS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    prompt_tokens_per_second: float
    generation_tokens_per_second: float
    experts: _containers.RepeatedCompositeFieldContainer[ExpertRates]
    balancedness: float
    def __init__(self, seconds: _Optional[float] = ..., prompt_tokens_per_second: _Optional[float] = ..., generation_tokens_per_second: _Optional[float] = ..., experts: _Optional[_Iterable[_Union[ExpertRates, _Mapping]]] = ..., balancedness: _Optional[float] = ...) -> None: ...

class ExpertRates(_message.Message):
    __slots__ = ("expert", "tokens_per_second", "tokens_per_second_by_layer", "share")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_BY_LAYER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    expert: int
    tokens_per_second: float
    tokens_per_second_by_layer: _containers.RepeatedScalarFieldContainer[float]
    share: float
    def __init__(self, expert: _Optional[int] = ..., tokens_per_second: _Optional[float] = ..., tokens_per_second_by_layer: _Optional[_Iterable[float]] = ..., share: _Optional[float] = ...) -> None: ...

class GatewayLoad(_message.Message):
    __slots__ = ("running", "waiting", "kv_cache_usage", "prompt_tokens", "generation_tokens", "prefix_cache_query_tokens", "prefix_cache_hit_tokens", "preemptions")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_USAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CACHE_QUERY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CACHE_HIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    kv_cache_usage: float
    prompt_tokens: int
    generation_tokens: int
    prefix_cache_query_tokens: int
    prefix_cache_hit_tokens: int
    preemptions: int
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_cache_usage: _Optional[float] = ..., prompt_tokens: _Optional[int] = ..., generation_tokens: _Optional[int] = ..., prefix_cache_query_tokens: _Optional[int] = ..., prefix_cache_hit_tokens: _Optional[int] = ..., preemptions: _Optional[int] = ...) -> None: ...

class ReplicaCount(_message.Message):
    __slots__ = ("state", "replicas")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    state: ReplicaState
    replicas: int
    def __init__(self, state: _Optional[_Union[ReplicaState, str]] = ..., replicas: _Optional[int] = ...) -> None: ...

class ExpertLoad(_message.Message):
    __slots__ = ("expert", "tokens", "tokens_by_layer", "share", "inflight_rows", "ready_replicas", "queue_rows", "demand_rows", "latency_p50_ns", "latency_p99_ns", "retries", "replicas")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_BY_LAYER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_ROWS_FIELD_NUMBER: _ClassVar[int]
    READY_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    DEMAND_ROWS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_NS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_NS_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    expert: int
    tokens: int
    tokens_by_layer: _containers.RepeatedScalarFieldContainer[int]
    share: float
    inflight_rows: int
    ready_replicas: int
    queue_rows: int
    demand_rows: float
    latency_p50_ns: int
    latency_p99_ns: int
    retries: int
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaCount]
    def __init__(self, expert: _Optional[int] = ..., tokens: _Optional[int] = ..., tokens_by_layer: _Optional[_Iterable[int]] = ..., share: _Optional[float] = ..., inflight_rows: _Optional[int] = ..., ready_replicas: _Optional[int] = ..., queue_rows: _Optional[int] = ..., demand_rows: _Optional[float] = ..., latency_p50_ns: _Optional[int] = ..., latency_p99_ns: _Optional[int] = ..., retries: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[ReplicaCount, _Mapping]]] = ...) -> None: ...

class ReplicaLoad(_message.Message):
    __slots__ = ("endpoint", "experts", "ready", "calls", "failed_calls", "inflight_rows", "latency_p50_ns", "latency_p99_ns", "queue_p50_ns", "compute_p50_ns", "state")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    FAILED_CALLS_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_ROWS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_NS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_P50_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_P50_NS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    experts: _containers.RepeatedScalarFieldContainer[int]
    ready: bool
    calls: int
    failed_calls: int
    inflight_rows: int
    latency_p50_ns: int
    latency_p99_ns: int
    queue_p50_ns: int
    compute_p50_ns: int
    state: ReplicaState
    def __init__(self, endpoint: _Optional[str] = ..., experts: _Optional[_Iterable[int]] = ..., ready: _Optional[bool] = ..., calls: _Optional[int] = ..., failed_calls: _Optional[int] = ..., inflight_rows: _Optional[int] = ..., latency_p50_ns: _Optional[int] = ..., latency_p99_ns: _Optional[int] = ..., queue_p50_ns: _Optional[int] = ..., compute_p50_ns: _Optional[int] = ..., state: _Optional[_Union[ReplicaState, str]] = ...) -> None: ...
