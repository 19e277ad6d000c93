"""Reading what a gateway needs of a checkpoint. Knows files and weights, not clients or replicas."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.verify import verify_experts, verify_gateway
from expertmesh.engine.sizing import choose_dtype
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.generation_config import read_defaults, read_eos_ids
from expertmesh.gateway.served_names import served_names
from expertmesh.kernels import cuda_devices
from expertmesh.kernels.backend import Backend
from expertmesh.model.backends import log_backend, open_backend
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

Report = Callable[[int, int], None]


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


def load_model(config: GatewayConfig, report: Report) -> LoadedModel:
    """Read the checkpoint; CheckpointError or ConfigError when it cannot be served."""
    checkpoint = Checkpoint.open(config.model, config.round_to_bits)
    model = checkpoint.model
    tokenizer = Tokenizer.open(config.model, model.vocab_size)
    backend = open_backend(config.backend, config.device, config.isa)
    log_backend(backend)
    if config.verifies_weights:
        _verify(checkpoint, config.discovery is None)
    defaults, eos_ids = read_defaults(config.model), read_eos_ids(config.model, model.vocab_size)
    dtype = choose_dtype(config.dtype, backend.activation_dtype)
    weights = checkpoint.on(backend.device)
    decoder = Decoder.load(model, weights, backend, dtype, report)
    local_experts = LocalExperts.load(model, weights, backend, report) if config.discovery is None else None
    cuda_devices.give_back_spare()
    return LoadedModel(
        config=model,
        name=served_names(config.model, config.served_model_names)[0],
        fingerprint=fingerprint(checkpoint),
        weight_format=checkpoint.weight_format,
        tokenizer=tokenizer,
        defaults=defaults,
        eos_ids=eos_ids.union(model.eos_token_ids, _own_eos_ids(tokenizer)),
        backend=backend,
        dtype=dtype,
        decoder=decoder,
        local_experts=local_experts,
    )


def _verify(checkpoint: Checkpoint, has_experts: bool) -> None:
    _log.info("the SHA-256 of all weights but those of experts is %s", verify_gateway(checkpoint))
    experts = range(checkpoint.model.num_experts) if has_experts else ()
    for expert, digest in zip(experts, verify_experts(checkpoint, experts), strict=True):
        _log.info("the SHA-256 of expert %d is %s", expert, digest)


def _own_eos_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    return () if tokenizer.eos_id is None else (tokenizer.eos_id,)
