"""API keys from flags, the environment and a file. Never shows one."""

from collections.abc import Iterable
from pathlib import Path

from expertmesh.errors import ConfigError


def read_keys(keys: Iterable[str], path: Path | None) -> tuple[str, ...]:
    """Return ``keys`` and those of the file at ``path``: one a line, without comments; ConfigError when it has none."""
    return (*_checked(keys, "--api-key"), *(_checked(_read(path), str(path)) if path else ()))


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the API keys in {path}: {error}") from error
    keys = [key for line in lines if (key := line.partition("#")[0].strip())]
    if not keys:
        raise ConfigError(f"{path} holds no API key; one a line would be right")
    return keys


def _checked(keys: Iterable[str], source: str) -> list[str]:
    checked = list(keys)
    if any(not key or key != "".join(key.split()) for key in checked):
        raise ConfigError(f"a key of {source} is empty or has spaces; a key is one word")
    return checked
