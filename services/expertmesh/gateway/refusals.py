"""What is told of callers who were sent away: a count for metrics, a line in the log. Knows no key."""

import logging
import time
from collections.abc import Callable
from enum import StrEnum

from expertmesh.errors import AccessDeniedError

_log = logging.getLogger(__name__)

LOG_SECONDS = 60.0
# So many addresses are remembered; one that was forgotten may have a second line in its minute.
MAX_ADDRESSES = 1024


class Refusal(StrEnum):
    """Why a caller was sent away, in the word of the metrics."""

    NO_KEY = "no_key"
    UNKNOWN_KEY = "unknown_key"
    EXPIRED_KEY = "expired_key"
    MISSING_SCOPE = "missing_scope"


class Refusals:
    """Tells ``count`` the reason of each, and the log of one per address and minute."""

    def __init__(self, count: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._now = now
        # Of each address, when it was logged and how many came since; the one that was logged last is the last.
        self._logged: dict[str, tuple[float, int]] = {}

    def note(self, error: AccessDeniedError, address: str) -> None:
        """Take note that a caller at ``address`` was sent away."""
        self._count(error.reason)
        now = self._now()
        last, num_since = self._logged.get(address, (now - LOG_SECONDS, 0))
        if now - last < LOG_SECONDS:
            self._logged[address] = last, num_since + 1
            return
        _log.warning("refused %s: %s%s", address, error, f"; {num_since} more since the line before" * bool(num_since))
        self._logged.pop(address, None)
        self._logged[address] = now, 0
        if len(self._logged) > MAX_ADDRESSES:
            del self._logged[next(iter(self._logged))]
