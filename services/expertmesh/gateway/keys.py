"""Who may call: API keys. Knows the text of an authorization header, not the transport it came with."""

import hmac
from collections.abc import Iterable


class ApiKeys:
    """Accepts every caller that presents one of ``keys`` as ``Bearer KEY``; without keys, everybody."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def accept(self, authorization: str | None) -> bool:
        """Tell whether the value of an authorization header may call; the time it takes says nothing about the keys."""
        scheme, _, presented = (authorization or "").partition(" ")
        matches = [hmac.compare_digest(presented.strip().encode(), key) for key in self._keys]
        return not self._keys or (scheme.lower() == "bearer" and any(matches))
