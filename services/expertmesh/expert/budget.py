"""How many bytes of calls and answers a server holds, over all its links. Knows sizes, not what is computed.

Alphabet: U rows of a call, A experts chosen per row, D hidden width.
"""

import math
import threading
from collections.abc import Sequence

from expertmesh.wire.calls import ExpertCall
from expertmesh.wire.failures import CallFailure, FailureCode

_VALUE_BYTES = 4  # of an answer, and of the widest hidden states


def row_bytes(hidden_size: int, max_choices: int) -> int:
    """Bytes of a row at the most: hidden states, choices and answer."""
    return 2 * _VALUE_BYTES * hidden_size + 2 * _VALUE_BYTES * max_choices


def held_bytes(num_call_bytes: int, shape: Sequence[int]) -> int:
    """Bytes of a call whose hidden states are of ``shape`` [U, D], and of the answer to it."""
    return num_call_bytes + _VALUE_BYTES * math.prod(shape)


class CallBudget:
    """Bytes that may be held at once, from the arrival of a call until its answer is written; for any thread.

    A caller that asks and takes no answers so runs out of bytes, as does one that asks for more than can be computed.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._num_held = 0
        self._lock = threading.Lock()

    @property
    def num_held(self) -> int:
        """Bytes that are held."""
        return self._num_held

    def take(self, num_bytes: int) -> None:
        """Hold so many more; CallFailure BUSY when there is no room now, INVALID_REQUEST when there never will be."""
        if num_bytes > self.max_bytes:
            raise CallFailure(
                FailureCode.INVALID_REQUEST,
                f"call and answer take {num_bytes} bytes; at most {self.max_bytes} would be right, send several calls",
            )
        with self._lock:
            if self._num_held + num_bytes > self.max_bytes:
                raise CallFailure(
                    FailureCode.BUSY,
                    f"calls and answers of {self._num_held} bytes are here already, {num_bytes} more would exceed the "
                    f"limit of {self.max_bytes}",
                )
            self._num_held += num_bytes

    def take_call(self, call: ExpertCall) -> int:
        """Hold a call and its answer; returns how many bytes to give back. CallFailure as ``take``."""
        num_bytes = held_bytes(call.num_bytes, call.hidden.shape)
        self.take(num_bytes)
        return num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Hold so many less."""
        with self._lock:
            self._num_held -= num_bytes
