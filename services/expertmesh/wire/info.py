"""What an expert server says about itself, as a value and as a message."""

from dataclasses import asdict, dataclass

from expertmesh.v1 import expert_pb2
from expertmesh.wire.failures import WireError


@dataclass(frozen=True)
class ServerInfo:
    """The fields of ``GetInfoResponse`` in expert.proto, which says what each means."""

    fingerprint: str
    experts: tuple[int, ...]
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
    expert_digests: tuple[str, ...] = ()


def encode_info(info: ServerInfo) -> expert_pb2.GetInfoResponse:
    """Turn the description of a server into its message."""
    return expert_pb2.GetInfoResponse(**asdict(info))


def decode_info(message: expert_pb2.GetInfoResponse) -> ServerInfo:
    """Turn a message into the description of a server; WireError when it hosts experts that there are not.

    Or when it has hashed only some of those it hosts.
    """
    if any(expert >= message.num_experts for expert in message.experts):
        raise WireError(f"experts {list(message.experts)} of {message.num_experts}; smaller numbers would be right")
    num_experts, num_digests = len(message.experts), len(message.expert_digests)
    if num_digests not in (0, num_experts):
        raise WireError(f"{num_digests} digests of {num_experts} experts; as many, or none, would be right")
    return ServerInfo(
        fingerprint=message.fingerprint,
        experts=tuple(message.experts),
        num_experts=message.num_experts,
        num_layers=message.num_layers,
        hidden_size=message.hidden_size,
        weight_format=message.weight_format,
        backend=message.backend,
        device=message.device,
        weight_bytes=message.weight_bytes,
        version=message.version,
        isa=message.isa,
        deterministic=message.deterministic,
        expert_digests=tuple(message.expert_digests),
    )
