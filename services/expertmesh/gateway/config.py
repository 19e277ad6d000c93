"""What a gateway serves, where, and within which bounds. Knows settings, not flags and not what they do."""

from dataclasses import dataclass, field
from pathlib import Path

from expertmesh.discovery.endpoints import Discovery
from expertmesh.engine.scheduler import SchedulerConfig
from expertmesh.gateway.metrics.config import MetricsConfig
from expertmesh.mesh.dispatch_config import DispatchConfig
from expertmesh.tracing.config import TraceConfig


@dataclass(frozen=True)
class GatewayConfig:
    """What to serve, where, and within which bounds.

    Plain weights are rounded to ``round_to_bits``. ``discovery`` says where expert servers are, None runs all experts
    in the engine. ``isa`` is the instruction set of the CPU kernels, ``dtype`` the type of activations.
    ``max_model_len`` None serves the longest sequence that the model and the KV cache allow; ``kv_cache_bytes`` None
    takes a share of the memory that is free after loading. ``num_api_processes`` serve clients, on the same ports.
    ``http_listen`` None serves gRPC only. With ``api_keys`` a caller must present one of them. Spans go where ``trace``
    says.
    """

    model: Path
    round_to_bits: int | None = None
    listen: str = "127.0.0.1:50051"
    discovery: Discovery | None = None
    backend: str = "auto"
    device: str = "cpu"
    isa: str = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    reuses_prefixes: bool = True
    num_micro_batches: int = 1
    num_api_processes: int = 1
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    drain_seconds: float = 30.0
    http_listen: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 * 2**20
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    trace: TraceConfig = field(default_factory=TraceConfig)
