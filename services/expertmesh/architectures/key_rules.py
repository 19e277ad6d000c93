"""What becomes of each key of a configuration, as tables that documents and programs share. Knows no key itself."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from expertmesh.architectures.keys import Keys

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyRule:
    """What becomes of ``keys``: ``effect`` says it to people; other values than those ``allowed`` are refused.

    Where ``allowed`` is None, any value is, as far as the rule is concerned; ``is_logged`` says that it was there.
    """

    keys: tuple[str, ...]
    effect: str
    allowed: tuple[object, ...] | None = None
    is_logged: bool = False

    @property
    def allowed_in_words(self) -> str:
        """The values that are allowed, as files spell them; empty where none is."""
        spelled = (value if isinstance(value, str) else json.dumps(value) for value in self.allowed or ())
        return " or ".join(spelled)


KeyRules = tuple[KeyRule, ...]


def honoured(*keys: str, but: str = "") -> KeyRule:
    """Say that keys are read and mean what they say."""
    return KeyRule(keys, f"honoured{but}")


def nothing(why: str, *keys: str) -> KeyRule:
    """Say that no value of these keys changes what is computed."""
    return KeyRule(keys, f"change nothing: {why}")


def not_done(why: str, *keys: str) -> KeyRule:
    """Say that what these keys ask for is not done, and that results are as right without it."""
    return KeyRule(keys, f"not done: {why}", is_logged=True)


def refused(why: str, *keys: str, unless: tuple[object, ...] = ()) -> KeyRule:
    """Say that what these keys ask for is not there, whatever they say but ``unless``."""
    return KeyRule(keys, why, unless)


def check_keys(keys: Keys, rules: Iterable[KeyRule]) -> None:
    """Raise CheckpointError for what ``rules`` refuse; log the keys that they do not know, or say to log."""
    rule_of = {key: rule for rule in rules for key in rule.keys}
    for key in keys:
        rule = rule_of.get(key)
        if rule and rule.allowed is not None and keys.get(key) not in rule.allowed:
            raise keys.unsupported(key, rule.effect, rule.allowed_in_words or "leaving it out")
        if rule and rule.is_logged:
            _log.warning("%s", keys.error(f"{keys.name(key)}: {rule.effect}"))
    if unknown := ", ".join(key for key in keys if key not in rule_of):
        _log.warning("%s", keys.error(f"{unknown}: not known, so what they ask for is not done"))
