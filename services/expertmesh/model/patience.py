"""How long rows wait for an expert that they chose, and what comes of it. Knows rows, not who asks and who answers.

Alphabet: T rows of a part of a step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from expertmesh.errors import ExpertUnavailableError
from expertmesh.model.no_replica import UNSAID


@dataclass(frozen=True)
class Patience:
    """The ``policies`` [T] int8 of rows, or UNSAID, and ``since`` [T] when their requests moved on last, in seconds.

    ``since`` is by ``time.monotonic``. Who waits for longer than ``look_seconds`` shall give up, for now, so that
    others can be heard. Who goes on without an expert notes it in ``dropped``: it, and its rows.
    """

    policies: npt.NDArray[np.int8]
    since: npt.NDArray[np.float64]
    look_seconds: float = math.inf
    dropped: list[tuple[int, npt.NDArray[np.intp]]] = field(default_factory=list)

    @classmethod
    def of_all(cls, num_rows: int, since: float) -> "Patience":
        """Make that of rows of which nothing is known."""
        return cls(np.full(num_rows, UNSAID, np.int8), np.full(num_rows, since))


class NoReplicaError(ExpertUnavailableError):
    """An expert has no replica, and ``rows`` of the part do not wait for one, or no longer; others may try again."""

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)
