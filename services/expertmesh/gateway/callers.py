"""Who sends a request, whichever door it comes through. Knows what shows it, no transport."""

from collections.abc import Callable
from dataclasses import dataclass

from expertmesh.engine.request import Caller


@dataclass(frozen=True)
class Callers:
    """Tells callers apart by their keys, and those without by their addresses.

    ``find_key`` returns the id of the key in an authorization header, None for no or an unknown one. Each key has a
    prefix cache of its own unless it ``shares_prefixes``; callers without keys share theirs.
    """

    find_key: Callable[[str | None], str | None]
    shares_prefixes: bool = False

    def caller_of(self, authorization: str | None, address: str) -> Caller:
        """Say who sends a request with the value of an authorization header from ``address``, without its port."""
        key = self.find_key(authorization)
        if key is None:
            return Caller(address)
        return Caller(key, has_key=True, cache_salt="" if self.shares_prefixes else key)
