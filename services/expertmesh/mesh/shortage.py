"""What becomes of the rows of a piece whose expert has no replica. Knows rows and what they want, not calls.

Alphabet: T rows of the piece, A experts chosen per row, D hidden width.
"""

import time
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.mesh.replica import Replica
from expertmesh.mesh.roster import Roster
from expertmesh.model.no_replica import UNSAID, NoReplica
from expertmesh.model.patience import NoReplicaError, Patience
from expertmesh.wire.calls import ExpertCall

Mask = npt.NDArray[np.bool_]


class Shortage:
    """Waits for replicas of the experts of ``rows``, at most ``wait_seconds``, or goes on without.

    ``numbers`` [T] are those of the rows in the step, whose ``patience`` says what they want; ``default`` is what those
    want of which it does not.
    """

    def __init__(
        self,
        roster: Roster,
        wait_seconds: float,
        default: NoReplica,
        rows: ExpertCall,
        numbers: range,
        patience: Patience,
    ) -> None:
        self._roster = roster
        self._wait_seconds = wait_seconds
        self._rows = rows
        self._numbers = numbers
        self._patience = patience
        policies = patience.policies[numbers.start : numbers.stop]
        self._policies = np.where(policies == UNSAID, np.int8(default), policies)
        self._since = patience.since[numbers.start : numbers.stop]
        self.dropped: set[int] = set()

    def wait_for(self, expert: int) -> Sequence[Replica]:
        """Wait for a replica; none when the expert is dropped. NoReplicaError when there is none, or none in time."""
        chose = self._chose([expert])
        if (fails := chose & (self._policies == NoReplica.FAIL)).any():
            raise self._error(f"no replica hosts expert {expert}", fails)
        waits = chose & (self._policies == NoReplica.WAIT)
        if not waits.any():
            self._drop([expert])
            return ()
        ends = np.maximum(self._since, self._roster.missing_since(expert)) + self._wait_seconds  # [T]
        first = float(ends[waits].min())
        seconds = max(0.0, first - time.monotonic())
        ready = self._roster.wait_for(expert, min(seconds, self._patience.look_seconds))
        if not ready:
            is_over = seconds <= self._patience.look_seconds
            message = f"no replica hosts expert {expert}; waited {self._wait_seconds:g} s for one"
            raise self._error(message, waits & is_over & (ends <= max(first, time.monotonic())))
        return ready

    def give_up(self, experts: Iterable[int], message: str, note: str = "") -> None:
        """Go on without experts that answer nobody; NoReplicaError, with a note, where a row insists."""
        missing = list(experts)
        insists = self._chose(missing) & (self._policies != NoReplica.DROP)
        if insists.any():
            error = self._error(message, insists)
            error.add_note(note)
            raise error
        self._drop(missing)

    def conclude(self, total: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Let the weights [T, A] of the experts that remain add up to what all did, in the sum [T, D] of their rows.

        The result is in ``out`` if that is given.
        """
        if not self.dropped:
            return total
        for expert in sorted(self.dropped):
            self._patience.dropped.append((expert, np.flatnonzero(self._chose([expert])) + self._numbers.start))
        weights = np.where(self._rows.topk_ids < 0, np.float32(0), self._rows.topk_weights)
        rest = np.where(np.isin(self._rows.topk_ids, list(self.dropped)), np.float32(0), weights)
        whole, left = weights.sum(axis=1), rest.sum(axis=1)  # [T]
        factors = np.divide(whole, left, out=np.ones_like(whole), where=left > 0)
        return torch.mul(total, torch.from_numpy(factors)[:, None], out=out)

    def _chose(self, experts: Sequence[int]) -> Mask:
        return cast(Mask, np.isin(self._rows.topk_ids, experts).any(axis=1))

    def _drop(self, experts: Sequence[int]) -> None:
        self.dropped.update(experts)
        is_bereft = cast(Mask, np.isin(self._rows.topk_ids, [*self.dropped, -1]).all(axis=1))  # [T]
        if is_bereft.any():
            listed = sorted(self.dropped)
            raise self._error(f"no replica hosts experts {listed}, and rows chose no other", is_bereft)

    def _error(self, message: str, rows: Mask) -> NoReplicaError:
        return NoReplicaError(message, (np.flatnonzero(rows) + self._numbers.start).tolist())
