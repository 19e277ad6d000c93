"""Which families there are. A further one is a file like theirs and a name here."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from expertmesh.architectures.architecture import Architecture
from expertmesh.architectures.key_rules import check_keys
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.mistral import MISTRAL
from expertmesh.architectures.mixtral import MIXTRAL
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.olmoe import OLMOE
from expertmesh.architectures.qwen3_moe import QWEN3_MOE
from expertmesh.architectures.tensor_table import TensorTable

NO_NAMES: Mapping[str, str] = MappingProxyType({})
ARCHITECTURES = {architecture.name: architecture for architecture in (MIXTRAL, MISTRAL, QWEN3_MOE, OLMOE)}


def read_model(config: Mapping[str, Any], file: Path, names: Mapping[str, str] = NO_NAMES) -> ModelConfig:
    """Check and take over the config.json that was read from ``file``, which may have other ``names`` for its keys.

    CheckpointError names the file, the key, its value and what would be right.
    """
    architecture = _recognize(Keys(config, file, names))
    keys = Keys({**architecture.defaults, **config}, file, names)
    check_keys(keys, architecture.keys)
    return architecture.read_config(keys)


def _recognize(keys: Keys) -> Architecture:
    """Find the family that ``architectures`` names, or ``model_type`` where it is not there; both must agree."""
    if "architectures" in keys:
        found = _named(keys)
        if keys.get("model_type") not in (None, found.model_type):
            raise keys.wrong("model_type", f"{found.model_type}, as architectures names {found.name},")
        return found
    for architecture in ARCHITECTURES.values():
        if keys.get("model_type") == architecture.model_type:
            return architecture
    raise keys.unsupported("model_type", "", ", ".join(one.model_type for one in ARCHITECTURES.values()))


def _named(keys: Keys) -> Architecture:
    names = keys.get("architectures")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise keys.wrong("architectures", "a list of names")
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise keys.unsupported("architectures", "", ", ".join(ARCHITECTURES))


def architecture_of(config: ModelConfig) -> Architecture:
    """Return the family that a model is of."""
    return ARCHITECTURES[config.architecture]


def tensors_of(config: ModelConfig) -> TensorTable:
    """Return the tensors that a model has."""
    return TensorTable(architecture_of(config).tensors, config)
