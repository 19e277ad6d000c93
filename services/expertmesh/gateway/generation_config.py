"""What a checkpoint suggests for requests that do not say: generation_config.json. Knows its keys, not requests."""

from pathlib import Path
from typing import Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.model.sampling import PARAMETERS, SamplingParams

FILE_NAME = "generation_config.json"
FIELDS = tuple(name for name, parameter in PARAMETERS.items() if parameter.is_suggested)


def read_defaults(directory: Path) -> SamplingParams:
    """Read the sampling defaults of a checkpoint; greedy where it has none or says ``do_sample: false``.

    CheckpointError names a value out of range.
    """
    config = _read(directory)
    fields = {name: config[name] for name in FIELDS if config.get(name) is not None}
    if not config.get("do_sample", False):
        fields["temperature"] = 0.0
    try:
        defaults = SamplingParams(**fields)
        defaults.validate()
    except (InvalidRequestError, TypeError) as error:
        raise CheckpointError(f"{directory / FILE_NAME}: {error}") from None
    return defaults


def read_eos_ids(directory: Path) -> frozenset[int]:
    """Read the ids that end an answer, over those that config.json names."""
    value = _read(directory).get("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    return frozenset(token_id for token_id in ids if isinstance(token_id, int))


def _read(directory: Path) -> dict[str, Any]:
    path = directory / FILE_NAME
    return read_json(path) if path.exists() else {}
