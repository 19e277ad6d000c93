"""Who refuses a call for good, and who is to blame for that: the call or the replica. Knows no rows."""

from expertmesh.errors import ComputeError, ExpertmeshError
from expertmesh.mesh.attempt import Attempt
from expertmesh.mesh.failure import Failure
from expertmesh.mesh.replica import Replica
from expertmesh.wire.failures import CallFailure


class Refusals:
    """Failures of one layer step that do not pass. A second opinion decides, where there is one."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self._first: dict[int, Failure] = {}  # by expert
        self._refusing: list[Replica] = []

    def note(self, attempt: Attempt, error: ExpertmeshError) -> None:
        """Remember a failure; ComputeError when any of its experts has been refused before."""
        failure = Failure.of(attempt.replica.endpoint, error)
        for expert in attempt.experts:
            if first := self._first.get(expert):
                refused = ComputeError(
                    f"layer {self._layer}, expert {expert}: {first.told}; asked again: {failure.told}"
                )
                refused.add_note(f"{first.logged}; {failure.logged}")
                raise refused from error
            self._first[expert] = failure
        if isinstance(error, CallFailure):
            self._refusing.append(attempt.replica)

    def blame(self) -> None:
        """Count an error against those who refused, now that all has been answered by others."""
        for replica in self._refusing:
            replica.blame()
