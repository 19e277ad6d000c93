"""Flags of a command line as metadata of the frozen settings that they fill. Knows no command, and no setting's use."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar, get_origin, get_type_hints

from expertmesh.errors import ConfigError

SettingsT = TypeVar("SettingsT")

MODEL = "Model"
NETWORK = "Network"
ACCESS = "Access"
TLS = "TLS"
COMPUTE = "Compute"
LIMITS = "Limits"
SPEED = "Speed"
LOGGING = "Logging"

REQUIRED: Any = ...
_FLAGS, _FIXED = "flags", "fixed"


@dataclass(frozen=True)
class Flag:
    """A flag: its group in ``--help``, its environment variable without EXPERTMESH_, and what it does.

    It has its variable's name unless ``name`` says otherwise, and its field's type and default. With a ``kind`` it has
    type and ``default`` of its own, and a command makes the field of it. It counts in ``unit``, of what the field
    counts. ``words`` maps what may be written to what it means. ``negates``: it switches off what the field says.
    """

    panel: str
    env: str
    text: str
    name: str = ""
    kind: Any = None
    default: Any = REQUIRED
    min: float | None = None
    max: float | None = None
    unit: int | None = None
    words: Mapping[str, Any] | None = None
    negates: bool = False

    def read(self, value: Any) -> Any:
        """Turn the flag's value into the field's; ConfigError for a word that is none of ``words``."""
        if self.words is not None:
            if value not in self.words:
                raise ConfigError(f"--{self.name} is {value!r}; one of {', '.join(self.words)} would be right")
            return self.words[value]
        if self.unit is not None:
            return None if value is None else int(value * self.unit)
        if self.negates:
            return not value
        if self.kind == list[str] | None:
            return tuple(value or ())
        return None if value == "" and self.kind == str | None else value


def flagged(*flags: Flag) -> Mapping[str, Any]:
    """Make the metadata of a field that ``flags`` fill."""
    return {_FLAGS: flags}


def setting(default: Any, *flags: Flag) -> Any:
    """Make a field with a default that ``flags`` fill."""
    return field(default=default, metadata=flagged(*flags))


def nested(settings: type[SettingsT], **fixed: Any) -> SettingsT:
    """Make a field of settings within settings; those that are ``fixed`` have no flag here."""
    made: Any = field(default_factory=partial(settings, **fixed), metadata={_FIXED: fixed})
    return made  # type: ignore[no-any-return]


def flags_of(settings: type[Any]) -> dict[str, Flag]:
    """Return the flags that fill ``settings`` and what is nested there, by name, in the order of the fields."""
    return dict(_flags_but(settings, ()))


def fill(settings: type[SettingsT], values: Mapping[str, Any], **made: Any) -> SettingsT:
    """Make ``settings`` of flags' ``values``, by name, and of fields ``made`` already; the rest is as by default."""
    for one, kind in _typed_fields(settings):
        if one.name in made:
            continue
        if _FIXED in one.metadata:
            made[one.name] = fill(kind, values, **one.metadata[_FIXED])
        for flag in one.metadata.get(_FLAGS, ()):
            name = _name(flag)
            if name in values and flag.kind is None:
                made[one.name] = _complete(flag, kind, one.default).read(values[name])
    return settings(**made)


def _flags_but(settings: type[Any], left_out: Mapping[str, Any] | tuple[()]) -> Iterator[tuple[str, Flag]]:
    for one, kind in _typed_fields(settings):
        if one.name in left_out:
            continue
        if _FIXED in one.metadata:
            yield from _flags_but(kind, one.metadata[_FIXED])
        for flag in one.metadata.get(_FLAGS, ()):
            yield _name(flag), _complete(flag, kind, one.default)


def _typed_fields(settings: type[Any]) -> Iterator[tuple[Field[Any], Any]]:
    kinds = get_type_hints(settings)
    return ((one, kinds[one.name]) for one in fields(settings))


def _name(flag: Flag) -> str:
    return flag.name or flag.env.lower()


def _complete(flag: Flag, kind: Any, default: Any) -> Flag:
    """Say the name, and the type and default on a command line, where those of the field count."""
    if flag.kind is None:
        kind, default = _on_a_command_line(flag, kind, default)
        flag = replace(flag, kind=kind, default=default)
    return replace(flag, name=_name(flag))


def _on_a_command_line(flag: Flag, kind: Any, default: Any) -> tuple[Any, Any]:
    if flag.words is not None:
        return str, next(word for word, meaning in flag.words.items() if meaning == default)
    if flag.unit is not None:
        return (float | None, None) if default is None else (float, default / flag.unit)
    if flag.negates:
        return bool, not default
    if get_origin(kind) is tuple:
        return list[str] | None, None
    return kind, REQUIRED if default is MISSING else default
