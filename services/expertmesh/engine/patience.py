"""What the chunks of a part of a step want where an expert has no replica, and what came of it. Knows no replicas.

Alphabet: T rows of the part.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch

from expertmesh.engine.scheduler import Chunk
from expertmesh.errors import ExpertUnavailableError
from expertmesh.model.experts import Experts, LayerCall, Pending
from expertmesh.model.no_replica import UNSAID, WORDS
from expertmesh.model.patience import NoReplicaError, Patience

T = TypeVar("T")

# How often a step that waits for an expert is left and begun anew: who comes meanwhile may want to fail at once, who
# leaves is waited for no more.
LOOK_SECONDS = 1.0

# Experts that a chunk was computed without, and how often: once for each row and layer that chose one.
Dropped = Mapping[int, int]
NOTHING: Dropped = MappingProxyType({})


class StarvedError(ExpertUnavailableError):
    """The ``chunks`` cannot be computed, for want of an expert; others of their step can, or may later."""

    def __init__(self, message: str, chunks: Seq[Chunk]) -> None:
        super().__init__(message)
        self.chunks = tuple(chunks)


class PatientExperts:
    """Experts, wherever they run, that are told what each row wants."""

    def __init__(self, experts: Experts, chunks: Seq[Chunk]) -> None:
        num_rows = [chunk.num_rows for chunk in chunks]
        requests = [chunk.sequence.request for chunk in chunks]
        policies = [WORDS[request.no_replica] if request.no_replica else UNSAID for request in requests]
        since = [chunk.sequence.moved_at for chunk in chunks]
        self._experts = experts
        self._chunks = chunks
        self._owners = np.repeat(np.arange(len(chunks)), num_rows)  # [T]
        self._patience = Patience(
            np.array(policies, np.int8)[self._owners], np.array(since)[self._owners], LOOK_SECONDS
        )

    def begin(self, call: LayerCall) -> "PatientCall":
        """Ask the experts; StarvedError when one is missing that rows do not want to do without."""
        return PatientCall(self, self.told(lambda: self._experts.begin(replace(call, patience=self._patience))))

    def told(self, act: Callable[[], T]) -> T:
        """Do something, and say of rows that fail whose they are."""
        try:
            return act()
        except NoReplicaError as error:
            numbers = sorted({int(self._owners[row]) for row in error.rows})
            starved = StarvedError(str(error), [self._chunks[number] for number in numbers])
            for note in getattr(error, "__notes__", ()):
                starved.add_note(note)
            raise starved from error

    def dropped(self) -> list[Dropped]:
        """Count what each chunk was computed without."""
        if not self._patience.dropped:
            return [NOTHING] * len(self._chunks)
        counts: list[Counter[int]] = [Counter() for _ in self._chunks]
        for expert, rows in self._patience.dropped:
            for number in self._owners[rows].tolist():
                counts[number][expert] += 1
        return list(counts)


@dataclass(frozen=True)
class PatientCall:
    """Rows on their way."""

    experts: PatientExperts
    pending: Pending

    def finish(self) -> torch.Tensor:
        """Wait for the rows."""
        return self.experts.told(self.pending.finish)

    def abandon(self) -> None:
        """Want them no more."""
        self.pending.abandon()
