"""What an expert server tells whoever watches it. Knows calls and their outcomes, not who counts."""

from collections.abc import Sequence
from typing import Protocol

from expertmesh.expert.job import CallJob, Outcome
from expertmesh.wire.failures import CallFailure


class CallObserver(Protocol):
    """Told what becomes of calls, from many threads: answer in microseconds."""

    def refused(self, failure: CallFailure) -> None:
        """Note a call that was not queued."""
        ...

    def answered(self, answers: Sequence[tuple[CallJob, Outcome]]) -> None:
        """Note what came of calls that left the queue together."""
        ...


class NullCallObserver:
    """Watches nothing."""

    def refused(self, failure: CallFailure) -> None:
        """Do nothing."""

    def answered(self, answers: Sequence[tuple[CallJob, Outcome]]) -> None:
        """Do nothing."""
