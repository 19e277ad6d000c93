"""JSON objects from files."""

import json
from pathlib import Path
from typing import Any

from expertmesh.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object; CheckpointError names the file and the fault."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}; a JSON object would be right")
    return value
