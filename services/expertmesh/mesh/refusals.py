"""Who refuses a call for good, and who is to blame for that: the call or the replica. Knows no rows."""

from expertmesh.errors import ComputeError, ExpertmeshError
from expertmesh.mesh.attempt import Attempt
from expertmesh.mesh.replica import Replica
from expertmesh.wire.failures import CallFailure


class Refusals:
    """Failures of one layer step that do not pass. A second opinion decides, where there is one."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self._first: dict[int, str] = {}  # by expert
        self._refusing: list[Replica] = []

    def note(self, attempt: Attempt, error: ExpertmeshError) -> None:
        """Remember a failure; ComputeError when any of its experts has been refused before."""
        refusal = f"{attempt.replica.endpoint}: {error}"
        for expert in attempt.experts:
            if expert in self._first:
                raise ComputeError(f"layer {self._layer} on {self._first[expert]}; on {refusal}") from error
            self._first[expert] = refusal
        if isinstance(error, CallFailure):
            self._refusing.append(attempt.replica)

    def blame(self) -> None:
        """Count an error against those who refused, now that all has been answered by others."""
        for replica in self._refusing:
            replica.blame()
