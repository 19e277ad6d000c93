"""Which families there are. A further one is a file like theirs and a name here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertmesh.architectures.architecture import Architecture
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.mistral import MISTRAL
from expertmesh.architectures.mixtral import MIXTRAL
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import TensorTable
from expertmesh.errors import CheckpointError

ARCHITECTURES = {architecture.name: architecture for architecture in (MIXTRAL, MISTRAL)}


def read_model(config: Mapping[str, Any], file: Path) -> ModelConfig:
    """Check and take over the config.json that was read from ``file``.

    CheckpointError names the file, the key, its value and what would be right.
    """
    names = config.get("architectures") or []
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and name in ARCHITECTURES:
            return ARCHITECTURES[name].read_config(Keys(config, file))
    found, supported = names or config.get("model_type"), ", ".join(ARCHITECTURES)
    raise CheckpointError(f"{file}: architecture {found} is not supported; supported: {supported}")


def architecture_of(config: ModelConfig) -> Architecture:
    """Return the family that a model is of."""
    return ARCHITECTURES[config.architecture]


def tensors_of(config: ModelConfig) -> TensorTable:
    """Return the tensors that a model has."""
    return TensorTable(architecture_of(config).tensors, config)
