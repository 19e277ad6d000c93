"""Reading what a gateway needs of a checkpoint. Knows files and weights, not clients or replicas."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.discovery.endpoints import Discovery
from expertmesh.engine.scheduler import SchedulerConfig
from expertmesh.engine.sizing import choose_dtype
from expertmesh.gateway.defaults import read_defaults, read_eos_ids
from expertmesh.gateway.metrics.exposition import MetricsConfig
from expertmesh.kernels.backend import Backend
from expertmesh.mesh.dispatcher import DispatchConfig
from expertmesh.model.backends import log_backend, open_backend
from expertmesh.model.config import ModelConfig
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.tracing.config import TraceConfig

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class GatewayConfig:
    """What to serve, where, and within which bounds.

    Plain weights are rounded to ``round_to_bits``. ``discovery`` says where expert servers are, None runs all experts
    in this process. ``isa`` is the instruction set of the CPU kernels, ``dtype`` the type of activations.
    ``max_model_len`` None serves the longest sequence that the model and the KV cache allow; ``kv_cache_bytes`` None
    takes a share of the memory that is free after loading. ``http_listen`` None serves gRPC only. With ``api_keys`` a
    caller must present one of them. Spans go where ``trace`` says.
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
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    drain_seconds: float = 30.0
    http_listen: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 * 2**20
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    trace: TraceConfig = field(default_factory=TraceConfig)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, but for experts that live elsewhere (``local_experts`` None)."""

    config: ModelConfig
    name: str
    fingerprint: str
    weight_format: str
    tokenizer: Tokenizer
    defaults: SamplingParams
    eos_ids: frozenset[int]
    backend: Backend
    dtype: torch.dtype
    decoder: Decoder
    local_experts: LocalExperts | None


def load(config: GatewayConfig, report: Report) -> LoadedModel:
    """Read the checkpoint; CheckpointError or ConfigError when it cannot be served."""
    checkpoint = Checkpoint.open(config.model, config.round_to_bits)
    model = ModelConfig.from_dict(checkpoint.config)
    tokenizer = Tokenizer.open(config.model)
    backend = open_backend(config.backend, config.device, config.isa)
    log_backend(backend)
    dtype = choose_dtype(config.dtype, backend.activation_dtype)
    return LoadedModel(
        config=model,
        name=config.model.resolve().name,
        fingerprint=fingerprint(checkpoint),
        weight_format=checkpoint.weight_format,
        tokenizer=tokenizer,
        defaults=read_defaults(config.model),
        eos_ids=frozenset(model.eos_token_ids) | read_eos_ids(config.model) or frozenset({tokenizer.eos_id}),
        backend=backend,
        dtype=dtype,
        decoder=Decoder.load(model, checkpoint, backend, dtype, report),
        local_experts=LocalExperts.load(model, checkpoint, backend, report) if config.discovery is None else None,
    )
