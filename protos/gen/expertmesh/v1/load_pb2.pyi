from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetLoadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLoadResponse(_message.Message):
    __slots__ = ("experts", "replicas", "balancedness")
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    BALANCEDNESS_FIELD_NUMBER: _ClassVar[int]
    experts: _containers.RepeatedCompositeFieldContainer[ExpertLoad]
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaLoad]
    balancedness: float
    def __init__(self, experts: _Optional[_Iterable[_Union[ExpertLoad, _Mapping]]] = ..., replicas: _Optional[_Iterable[_Union[ReplicaLoad, _Mapping]]] = ..., balancedness: _Optional[float] = ...) -> None: ...

class ExpertLoad(_message.Message):
    __slots__ = ("expert", "tokens", "tokens_by_layer", "share", "inflight_rows", "ready_replicas")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_BY_LAYER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_ROWS_FIELD_NUMBER: _ClassVar[int]
    READY_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    expert: int
    tokens: int
    tokens_by_layer: _containers.RepeatedScalarFieldContainer[int]
    share: float
    inflight_rows: int
    ready_replicas: int
    def __init__(self, expert: _Optional[int] = ..., tokens: _Optional[int] = ..., tokens_by_layer: _Optional[_Iterable[int]] = ..., share: _Optional[float] = ..., inflight_rows: _Optional[int] = ..., ready_replicas: _Optional[int] = ...) -> None: ...

class ReplicaLoad(_message.Message):
    __slots__ = ("endpoint", "experts", "ready", "calls", "failed_calls", "inflight_rows", "latency_p50_ns")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    FAILED_CALLS_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_ROWS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_NS_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    experts: _containers.RepeatedScalarFieldContainer[int]
    ready: bool
    calls: int
    failed_calls: int
    inflight_rows: int
    latency_p50_ns: int
    def __init__(self, endpoint: _Optional[str] = ..., experts: _Optional[_Iterable[int]] = ..., ready: _Optional[bool] = ..., calls: _Optional[int] = ..., failed_calls: _Optional[int] = ..., inflight_rows: _Optional[int] = ..., latency_p50_ns: _Optional[int] = ...) -> None: ...
