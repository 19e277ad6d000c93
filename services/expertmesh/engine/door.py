"""The door of the engine: requests come in, tokens go out, and whoever leaves early is cancelled.

Knows recipients of token streams and why these end; neither steps nor text, nor how messages travel.
"""

from typing import Protocol

from expertmesh.engine.internal_error import as_told
from expertmesh.engine.messages import TokenDelta
from expertmesh.engine.observer import EngineObserver, Interruption, Outcome
from expertmesh.engine.request import Constraint, Limits, Request, Sequence
from expertmesh.engine.scheduler import Scheduler
from expertmesh.errors import ExpertmeshError, InvalidRequestError


class Recipient(Protocol):
    """Who puts requests under numbers of its own, and hears what becomes of them."""

    def hand(self, deltas: list[tuple[int, TokenDelta]]) -> None:
        """Take the tokens of a step."""
        ...

    def refuse(self, request_id: int, error: ExpertmeshError) -> None:
        """Hear that a request ended with an error."""
        ...


Ticket = tuple[Recipient, int]


class Door:
    """Recipients enter and leave; the loop asks who waits, hands tokens out, and flushes them after each step.

    All of it happens in the engine's thread.
    """

    def __init__(self, scheduler: Scheduler, limits: Limits, observer: EngineObserver) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._observer = observer
        self._tickets: dict[Sequence, Ticket] = {}
        self._sequences: dict[Ticket, Sequence] = {}
        self._deltas: dict[Recipient, list[tuple[int, TokenDelta]]] = {}

    def enter(
        self,
        recipient: Recipient,
        request_id: int,
        request: Request,
        constraint: Constraint | None = None,
        past_ids: tuple[int, ...] = (),
    ) -> None:
        """Take a request in; the recipient hears at once if it is refused, or if taking it in fails."""
        try:
            self._limits.check(request)
            sequence = self._make(request, constraint, past_ids)
            self._scheduler.add(sequence)
        except Exception as error:  # its own failure: the engine goes on with the others
            self.refuse(recipient, request_id, as_told(error, "taking a request in"))
            return
        self._tickets[sequence] = (recipient, request_id)
        self._sequences[recipient, request_id] = sequence
        self._observer.arrived(sequence)

    def refuse(self, recipient: Recipient, request_id: int, error: ExpertmeshError) -> None:
        """Tell a recipient that its request cannot be taken in."""
        self._observer.rejected(error)
        recipient.refuse(request_id, error)

    def leave(self, recipient: Recipient, request_id: int, outcome: Outcome) -> None:
        """End a request of which the recipient wants no more; nothing happens when it has ended before."""
        if sequence := self._sequences.get((recipient, request_id)):
            self.end(sequence, outcome)

    def leave_all(self, recipient: Recipient) -> None:
        """End every request of a recipient that is gone."""
        for sequence in [sequence for (owner, _), sequence in self._sequences.items() if owner is recipient]:
            self.end(sequence, Interruption.CANCELLED)
        self._deltas.pop(recipient, None)

    def hand_out(self, sequence: Sequence, delta: TokenDelta) -> None:
        """Lay a token out for whoever waits for it."""
        recipient, request_id = self._tickets[sequence]
        self._deltas.setdefault(recipient, []).append((request_id, delta))

    def flush(self) -> None:
        """Give every recipient its tokens of this step."""
        deltas, self._deltas = self._deltas, {}
        for recipient, own in deltas.items():
            recipient.hand(own)

    def end(self, sequence: Sequence, outcome: Outcome) -> None:
        """Free what a sequence holds; nothing happens when it has ended before."""
        ticket = self._tickets.pop(sequence, None)
        if ticket is not None:
            del self._sequences[ticket]
            self._scheduler.remove(sequence)
            self._observer.finished(sequence, outcome)

    def fail(self, sequence: Sequence, error: ExpertmeshError) -> None:
        """End a sequence with an error, if anybody still waits for it."""
        if ticket := self._tickets.get(sequence):
            self.flush()  # its last tokens come before
            self.end(sequence, Interruption.FAILED)
            recipient, request_id = ticket
            recipient.refuse(request_id, error)

    def _make(self, request: Request, constraint: Constraint | None, past_ids: tuple[int, ...]) -> Sequence:
        sampling = request.sampling
        if sampling.seed is None:
            raise InvalidRequestError("seed is None; whoever puts a request to the engine draws one", "seed")
        room = self._limits.max_model_len - len(request.prompt_ids)
        max_tokens = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        return Sequence(request, max_tokens, sampling.seed, constraint, past_ids)
