"""Under which names a model is served. Knows its directory and what a flag says, not who asks."""

import re
from collections.abc import Iterable
from pathlib import Path

from expertmesh.architectures.jsonfile import read_json
from expertmesh.checkpoint.configuration import CONFIG
from expertmesh.errors import ConfigError
from expertmesh.gguf.files import SUFFIX

NAME_KEY = "_name_or_path"
# ORG/NAME, as the Hugging Face Hub has it.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Where a cache of the Hub keeps a revision: models--ORG--NAME/snapshots/HASH.
SNAPSHOT = re.compile(r"models--(?:(?P<org>.+?)--)?(?P<name>.+)")
# What paths of trainers begin with, and no organization is called.
LOCAL = frozenset({"checkpoints", "data", "model", "models", "out", "output", "outputs", "results", "runs", "tmp"})
# What a folder is called that says no more than how its weights are stored.
STORAGE = re.compile(r"awq|gptq|(int|fp)[348]|[348][_-]?bits?|(fp|bf|b?float)(16|32)", re.IGNORECASE)


def served_names(model: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Return the name that replies carry, and the others by which requests may call the model.

    Without ``names`` it is the Hub's ORG/NAME where the directory is a snapshot of it or config.json names it, else
    that of the directory or file, behind that of the folder around it where it only says how weights are stored.
    ConfigError for a name that is not one word.
    """
    given = tuple(dict.fromkeys(names))
    for name in given:
        if not name or name != "".join(name.split()):
            raise ConfigError(f"--served-model-name is {name!r}; one word, such as mixtral, would be right")
    directory = model.resolve()
    return given or (_snapshot_name(directory) or _configured_name(directory) or _local_name(directory),)


def _snapshot_name(directory: Path) -> str | None:
    found = SNAPSHOT.fullmatch(directory.parent.parent.name) if directory.parent.name == "snapshots" else None
    return "/".join(filter(None, found.group("org", "name"))) if found else None


def _configured_name(directory: Path) -> str | None:
    path = directory / CONFIG
    name = read_json(path).get(NAME_KEY) if path.exists() else None
    is_of_the_hub = isinstance(name, str) and HUB_ID.fullmatch(name) and name.partition("/")[0] not in LOCAL
    return name if is_of_the_hub else None


def _local_name(model: Path) -> str:
    name, around = model.name.removesuffix(SUFFIX), model.parent.name
    return f"{around}-{name}" if around and STORAGE.fullmatch(name) else name
