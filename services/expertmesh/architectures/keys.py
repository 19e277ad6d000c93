"""The keys of a configuration. Knows types and how to say what is wrong, not what a key means.

Every error is a CheckpointError that names the file, the key, its value and what would be right. A key that is null
counts as absent.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from expertmesh.errors import CheckpointError


class Keys:
    """The keys of ``file``, which has been read."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        self._values = values
        self._file = file

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def count(self, key: str, default: int | None = None) -> int:
        """Read a positive integer."""
        value = self._get(key, default)
        if not _is_int(value) or value < 1:
            raise self._wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float) -> float:
        """Read a positive number."""
        value = self._get(key, default)
        if not (_is_int(value) or isinstance(value, float)) or not 0 < value < float("inf"):
            raise self._wrong(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Read true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Read one id or a list of them; none where the key is absent."""
        value = self._get(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(_is_int(token_id) for token_id in ids):
            raise self._wrong(key, "an integer or a list of integers")
        return tuple(ids)

    def require(self, key: str, supported: object) -> None:
        """Refuse every value but one; an absent key means that one."""
        if key in self and self._values[key] != supported:
            raise self.error(f"{key} {self._values[key]!r} is not supported; supported: {supported}")

    def section(self, *keys: str) -> "Keys":
        """Return the keys of the object under the first of ``keys`` that is there; none where it is not."""
        found = next((key for key in keys if self._values.get(key)), None)
        if found is None:
            return Keys({}, self._file)
        if not isinstance(self._values[found], Mapping):
            raise self._wrong(found, "an object")
        return Keys(self._values[found], self._file)

    def error(self, text: str) -> CheckpointError:
        """Make an error about this file."""
        return CheckpointError(f"{self._file}: {text}")

    def _get(self, key: str, default: Any) -> Any:
        return self._values[key] if key in self else default

    def _wrong(self, key: str, right: str) -> CheckpointError:
        return self.error(f"{key} is {self._values.get(key)!r}; {right} would be right")


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
