"""The shipped model, and what tests ask it. Needs nothing that is installed."""

import json
import os
from pathlib import Path

MODEL = Path(__file__).parents[2] / "examples" / "tiny-mixtral" / "awq"
NAME = "tiny-mixtral-awq"
QUESTION = "What is 291 - 150?"
ANSWER = "141"


def with_long_context(directory: Path) -> Path:
    """Make ``directory``: the shipped model with a longer context than it was trained for, to tell much of tools."""
    directory.mkdir()
    for file in MODEL.iterdir():
        os.symlink(file, directory / file.name)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").unlink()
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return directory
