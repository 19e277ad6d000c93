"""The configuration of a checkpoint: config.json, or Mistral's own params.json. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.architectures.mistral_params import config_from_params, names_in_params
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import NO_NAMES, read_model
from expertmesh.errors import CheckpointError

CONFIG, PARAMS = "config.json", "params.json"


@dataclass(frozen=True)
class Configuration:
    """What ``file`` says: ``values`` in the words of config.json, for which it has ``names`` of its own; the model."""

    file: Path
    values: dict[str, Any]
    names: Mapping[str, str]
    model: ModelConfig


def read_configuration(directory: Path) -> Configuration:
    """Read and check the configuration of a checkpoint.

    CheckpointError names the file, the key, its value and what would be right; config.json is what is missing where
    there is neither.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; give the directory that holds config.json")
    file, params = directory / CONFIG, directory / PARAMS
    if file.exists() or not params.exists():
        values = read_json(file)
        return Configuration(file, values, NO_NAMES, read_model(values, file))
    read = read_json(params)
    values, names = config_from_params(params, read), names_in_params(read)
    return Configuration(params, values, names, read_model(values, params, names))
