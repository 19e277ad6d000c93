"""Where the configuration of a checkpoint lies: config.json, or Mistral's own params.json. Needs no torch."""

from pathlib import Path
from typing import Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.architectures.mistral_params import config_from_params

PARAMS = "params.json"


def find_config(directory: Path) -> Path:
    """Return the file with the configuration; it is config.json that is missing where there is none."""
    config, params = directory / "config.json", directory / PARAMS
    return params if params.exists() and not config.exists() else config


def read_config(file: Path) -> dict[str, Any]:
    """Read a configuration in the words of config.json; CheckpointError when it cannot be read."""
    config = read_json(file)
    return config_from_params(file, config) if file.name == PARAMS else config
