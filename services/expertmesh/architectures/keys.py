"""The keys of a configuration. Knows types and how to say what is wrong, not what a key means.

Every error is a CheckpointError that names the file, the key, its value and what would be right. A key that is null
counts as absent.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from expertmesh.errors import CheckpointError, shortened

MAX_COUNT = 2**31 - 1
# What float32 holds.
MIN_NUMBER, MAX_NUMBER = 1.2e-38, 3.4e38
# Of a value that is wrong, as much is shown.
MAX_SHOWN = 100


class Keys:
    """The keys of ``file``, which has been read, or of the object under its key ``section``.

    ``names`` are those that the file has for keys where these are others.
    """

    def __init__(
        self, values: Mapping[str, Any], file: Path, names: Mapping[str, str] = MappingProxyType({}), section: str = ""
    ) -> None:
        self._values = values
        self._file = file
        self._names = names
        self._section = section

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._values if key in self)

    def get(self, key: str) -> Any:
        """Return a value as it is; None where the key is absent."""
        return self._values.get(key)

    def count(self, key: str, default: int | None = None, most: int = MAX_COUNT) -> int:
        """Read a positive integer of ``most`` at most."""
        value = self._get(key, default)
        if not is_int(value) or value < 1:
            raise self.wrong(key, "a positive integer")
        if value > most:
            raise self.wrong(key, f"an integer of at most {most}")
        return value

    def number(self, key: str, default: float | None = None, above: float = 0) -> float:
        """Read a number above ``above``."""
        value = self._get(key, default)
        if not (is_int(value) or isinstance(value, float)) or not max(above, MIN_NUMBER) < value <= MAX_NUMBER:
            raise self.wrong(key, f"a number above {above:g}" if above else "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Read true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def word(self, key: str, default: str) -> str:
        """Read a word, whose case says nothing."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a word")
        return value.lower()

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """Read one id or a list of them; none where the key is absent."""
        value = self._get(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(is_int(token_id) for token_id in ids):
            raise self.wrong(key, "an integer or a list of integers")
        if not all(0 <= token_id < vocab_size for token_id in ids):
            raise self.wrong(key, f"ids from 0 to {vocab_size - 1}, as the vocabulary has,")
        return tuple(ids)

    def one_of(self, *keys: str) -> str:
        """Return which of several names for one thing is there, the first where none is; they must not disagree.

        The case of words says nothing.
        """
        found = [key for key in keys if key in self]
        for key in found[1:]:
            if _fold(self.get(key)) != _fold(self.get(found[0])):
                raise self.wrong(key, f"the same as {self.name(found[0])}, {_show(self.get(found[0]))}, or neither,")
        return found[0] if found else keys[0]

    def section(self, *keys: str) -> "Keys":
        """Return the keys of the object under the one of ``keys`` that is there and not empty; none where none is."""
        given = [key for key in keys if self.get(key) not in ({}, None)]
        found = self.one_of(*given) if given else keys[0]
        values = self._get(found, {})
        if not isinstance(values, Mapping):
            raise self.wrong(found, "an object")
        return Keys(values, self._file, section=f"{self._section}.{found}" if self._section else found)

    def name(self, key: str) -> str:
        """Return what the file calls a key."""
        name = self._names.get(key, key)
        return f"{self._section}.{name}" if self._section else name

    def error(self, text: str) -> CheckpointError:
        """Make an error about this file."""
        return CheckpointError(f"{self._file}: {text}")

    def wrong(self, key: str, right: str) -> CheckpointError:
        """Make an error about a value that cannot be."""
        return self.error(f"{self.name(key)} is {_show(self.get(key))}; {right} would be right")

    def unsupported(self, key: str, why: str, supported: str) -> CheckpointError:
        """Make an error about a value that can be, elsewhere."""
        reason = f" ({why})" if why else ""
        return self.error(f"{self.name(key)} {_show(self.get(key))} is not supported{reason}; supported: {supported}")

    def _get(self, key: str, default: Any) -> Any:
        return self._values[key] if key in self else default


def is_int(value: Any) -> TypeGuard[int]:
    """Tell whether a value is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _fold(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _show(value: object) -> str:
    return shortened(repr(value), MAX_SHOWN)
