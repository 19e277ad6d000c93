"""What the engine tells whoever watches it. Knows sequences and why they end, not who counts."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from expertmesh.engine.request import FinishReason, Sequence
from expertmesh.errors import ExpertmeshError


class Interruption(Enum):
    """Why a sequence ended before its answer was complete."""

    FAILED = "failed"  # a step or the sequence's own constraint failed
    CANCELLED = "cancelled"  # nobody wanted the rest


Outcome = FinishReason | Interruption
OUTCOMES: dict[str, Outcome] = {outcome.value: outcome for outcome in (*FinishReason, *Interruption)}


@dataclass(frozen=True)
class StepSummary:
    """A step: how long it took, the rows in it, and how many of them were guessed, and guessed right."""

    seconds: float
    num_rows: int
    num_drafted: int
    num_accepted: int


class SchedulerObserver(Protocol):
    """Told what becomes of sequences in the queue."""

    def admitted(self, sequence: Sequence) -> None:
        """Note that a sequence got its blocks, for the first time or after a preemption."""
        ...

    def preempted(self, sequence: Sequence) -> None:
        """Note that a running sequence gave its blocks back and waits again."""
        ...


class EngineObserver(SchedulerObserver, Protocol):
    """Told what happens, in the engine's thread and in the middle of a step: answer in microseconds and never raise."""

    def arrived(self, sequence: Sequence) -> None:
        """Note a sequence that was taken into the queue."""
        ...

    def rejected(self, error: ExpertmeshError) -> None:
        """Note a request that was refused before anything was computed."""
        ...

    def produced(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that a step gave a sequence ``num_tokens`` new tokens."""
        ...

    def finished(self, sequence: Sequence, outcome: Outcome) -> None:
        """Note the end of a sequence that had arrived; comes once for each."""
        ...

    def stepped(self, step: StepSummary) -> None:
        """Note a step that did not fail."""
        ...


class NullObserver:
    """Watches nothing."""

    def arrived(self, sequence: Sequence) -> None:
        """Do nothing."""

    def rejected(self, error: ExpertmeshError) -> None:
        """Do nothing."""

    def admitted(self, sequence: Sequence) -> None:
        """Do nothing."""

    def preempted(self, sequence: Sequence) -> None:
        """Do nothing."""

    def produced(self, sequence: Sequence, num_tokens: int) -> None:
        """Do nothing."""

    def finished(self, sequence: Sequence, outcome: Outcome) -> None:
        """Do nothing."""

    def stepped(self, step: StepSummary) -> None:
        """Do nothing."""
