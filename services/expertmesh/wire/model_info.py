"""What a gateway tells about its model, as both ends hold it. Knows no transport."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """The fields of ``GetModelInfoResponse`` in generation.proto, which says what each means."""

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
    isa: str
    deterministic: bool
