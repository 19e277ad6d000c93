"""Fields that a server has no use for, as tables that documents and requests share. Knows no field itself."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FieldRule:
    """What becomes of the fields ``names``, whose ``use`` elsewhere is this; other values than ``allowed`` are refused.

    Where ``allowed`` is None, every value is taken and changes nothing.
    """

    names: tuple[str, ...]
    use: str
    allowed: tuple[object, ...] | None = None

    def lets_pass(self, value: object) -> bool:
        """Tell whether a value asks for nothing that is missed."""
        return self.allowed is None or any(is_same(value, one) for one in self.allowed)

    @property
    def effect(self) -> str:
        """What becomes of the fields, in words."""
        if self.allowed is None:
            return f"ignored: {self.use}"
        spelled = " or ".join(json.dumps(value) for value in self.allowed)
        return f"refused{spelled and f' unless {spelled}'}: {self.use}"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of what is taken."""
        known = {"description": self.effect[0].upper() + self.effect[1:] + "."}
        return known if self.allowed is None else {**known, "enum": [None, *self.allowed]}


FieldRules = tuple[FieldRule, ...]


def ignored(use: str, *names: str) -> FieldRule:
    """Say that no value of these fields changes an answer."""
    return FieldRule(names, use)


def refused(use: str, *names: str, unless: tuple[object, ...] = ()) -> FieldRule:
    """Say that what these fields ask for is not there, whatever they say but ``unless``."""
    return FieldRule(names, use, unless)


def by_name(rules: Iterable[FieldRule]) -> dict[str, FieldRule]:
    """Look rules up by the names of their fields."""
    return {name: rule for rule in rules for name in rule.names}


def without_idle(fields: Mapping[str, Any], rule_of: Mapping[str, FieldRule]) -> dict[str, Any]:
    """Leave out what asks for nothing: null, and what the rules of these names let pass."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and not (name in rule_of and rule_of[name].lets_pass(value))
    }


def is_same(value: object, allowed: object) -> bool:
    """Compare as JSON does: 1 is 1.0 and not true."""
    return isinstance(value, bool) == isinstance(allowed, bool) and value == allowed
