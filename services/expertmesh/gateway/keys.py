"""API keys: whose they are, what for and until when. Knows neither files nor the transport that a key came with."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

# Hexadecimal digits of a hash that tell two keys without a name apart.
ID_DIGITS = 12


class Scope(StrEnum):
    """What a key is good for; ``ADMIN`` is everything, also what is in no table of scopes yet."""

    GENERATE = "generate"
    LOAD = "load"
    ADMIN = "admin"


def digest_of(secret: str) -> bytes:
    """Return what is kept of a key: its SHA-256, as keys are random and too long to be guessed from it."""
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True)
class Key:
    """A key by its ``digest``. Without ``scopes`` it is good for everything, without ``expires`` for ever."""

    digest: bytes = field(repr=False)
    name: str = ""
    scopes: frozenset[Scope] = frozenset({Scope.ADMIN})
    expires: datetime | None = None

    @property
    def id(self) -> str:
        """What the key is called where others read it: its name, else the first digits of its hash."""
        return self.name or self.digest.hex()[:ID_DIGITS]

    def may(self, scope: Scope) -> bool:
        """Tell whether the key reaches as far as ``scope``."""
        return not self.scopes.isdisjoint({scope, Scope.ADMIN})

    def has_expired(self, now: datetime | None = None) -> bool:
        """Tell whether its time is over."""
        return self.expires is not None and (now or datetime.now(UTC)) >= self.expires


class Keys:
    """Those that are known at a time."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secret: str) -> Key | None:
        """Return the key that ``secret`` is, expired or not; the time it takes says nothing about the others."""
        presented = digest_of(secret)
        matches = [key for key in self._keys if hmac.compare_digest(key.digest, presented)]
        return matches[0] if matches else None
