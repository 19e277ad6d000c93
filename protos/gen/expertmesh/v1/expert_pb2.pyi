from expertmesh.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExpertCall(_message.Message):
    __slots__ = ("layer", "hidden", "topk_ids", "topk_weights", "timeout_ns", "traceparent")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    TOPK_IDS_FIELD_NUMBER: _ClassVar[int]
    TOPK_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    layer: int
    hidden: _tensor_pb2.Tensor
    topk_ids: _tensor_pb2.Tensor
    topk_weights: _tensor_pb2.Tensor
    timeout_ns: int
    traceparent: str
    def __init__(self, layer: _Optional[int] = ..., hidden: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., topk_ids: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., topk_weights: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., timeout_ns: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class ExpertResult(_message.Message):
    __slots__ = ("partial", "queue_ns", "compute_ns")
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    partial: _tensor_pb2.Tensor
    queue_ns: int
    compute_ns: int
    def __init__(self, partial: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Failure.Code]
        CODE_BUSY: _ClassVar[Failure.Code]
        CODE_DRAINING: _ClassVar[Failure.Code]
        CODE_EXPERT_NOT_HOSTED: _ClassVar[Failure.Code]
        CODE_FINGERPRINT_MISMATCH: _ClassVar[Failure.Code]
        CODE_INVALID_REQUEST: _ClassVar[Failure.Code]
        CODE_DEADLINE_EXCEEDED: _ClassVar[Failure.Code]
        CODE_COMPUTE_FAILED: _ClassVar[Failure.Code]
        CODE_DAMAGED: _ClassVar[Failure.Code]
    CODE_UNSPECIFIED: Failure.Code
    CODE_BUSY: Failure.Code
    CODE_DRAINING: Failure.Code
    CODE_EXPERT_NOT_HOSTED: Failure.Code
    CODE_FINGERPRINT_MISMATCH: Failure.Code
    CODE_INVALID_REQUEST: Failure.Code
    CODE_DEADLINE_EXCEEDED: Failure.Code
    CODE_COMPUTE_FAILED: Failure.Code
    CODE_DAMAGED: Failure.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: Failure.Code
    message: str
    def __init__(self, code: _Optional[_Union[Failure.Code, str]] = ..., message: _Optional[str] = ...) -> None: ...

class DispatchRequest(_message.Message):
    __slots__ = ("request_id", "call", "checksum")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    call: ExpertCall
    checksum: int
    def __init__(self, request_id: _Optional[int] = ..., call: _Optional[_Union[ExpertCall, _Mapping]] = ..., checksum: _Optional[int] = ...) -> None: ...

class DispatchResponse(_message.Message):
    __slots__ = ("request_id", "result", "failure", "checksum")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    result: ExpertResult
    failure: Failure
    checksum: int
    def __init__(self, request_id: _Optional[int] = ..., result: _Optional[_Union[ExpertResult, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., checksum: _Optional[int] = ...) -> None: ...

class ForwardRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: ExpertCall
    def __init__(self, call: _Optional[_Union[ExpertCall, _Mapping]] = ...) -> None: ...

class ForwardResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: ExpertResult
    def __init__(self, result: _Optional[_Union[ExpertResult, _Mapping]] = ...) -> None: ...

class OpenLinkRequest(_message.Message):
    __slots__ = ("transport",)
    class Transport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TRANSPORT_UNSPECIFIED: _ClassVar[OpenLinkRequest.Transport]
        TRANSPORT_UNIX: _ClassVar[OpenLinkRequest.Transport]
        TRANSPORT_TCP: _ClassVar[OpenLinkRequest.Transport]
    TRANSPORT_UNSPECIFIED: OpenLinkRequest.Transport
    TRANSPORT_UNIX: OpenLinkRequest.Transport
    TRANSPORT_TCP: OpenLinkRequest.Transport
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    transport: OpenLinkRequest.Transport
    def __init__(self, transport: _Optional[_Union[OpenLinkRequest.Transport, str]] = ...) -> None: ...

class OpenLinkResponse(_message.Message):
    __slots__ = ("unix_path", "tcp_port", "token", "timeout_ns")
    UNIX_PATH_FIELD_NUMBER: _ClassVar[int]
    TCP_PORT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NS_FIELD_NUMBER: _ClassVar[int]
    unix_path: str
    tcp_port: int
    token: bytes
    timeout_ns: int
    def __init__(self, unix_path: _Optional[str] = ..., tcp_port: _Optional[int] = ..., token: _Optional[bytes] = ..., timeout_ns: _Optional[int] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("fingerprint", "experts", "num_experts", "num_layers", "hidden_size", "weight_format", "backend", "device", "weight_bytes", "version", "isa", "deterministic", "expert_digests")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ISA_FIELD_NUMBER: _ClassVar[int]
    DETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    EXPERT_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    experts: _containers.RepeatedScalarFieldContainer[int]
    num_experts: int
    num_layers: int
    hidden_size: int
    weight_format: str
    backend: str
    device: str
    weight_bytes: int
    version: str
    isa: str
    deterministic: bool
    expert_digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, fingerprint: _Optional[str] = ..., experts: _Optional[_Iterable[int]] = ..., num_experts: _Optional[int] = ..., num_layers: _Optional[int] = ..., hidden_size: _Optional[int] = ..., weight_format: _Optional[str] = ..., backend: _Optional[str] = ..., device: _Optional[str] = ..., weight_bytes: _Optional[int] = ..., version: _Optional[str] = ..., isa: _Optional[str] = ..., deterministic: _Optional[bool] = ..., expert_digests: _Optional[_Iterable[str]] = ...) -> None: ...
