"""One layer step, in pieces: servers compute one while the next is gathered and the one before is added up.

Knows the order of the pieces; piece.py knows what becomes of each. Alphabet: T rows of the step, D hidden width.
"""

import time

import torch

from expertmesh.mesh.call_rows import max_call_rows
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.mesh.piece import Dispatch, Piece, Trials
from expertmesh.mesh.shortage import Shortage
from expertmesh.mesh.waiting import Waiting
from expertmesh.model.patience import Patience
from expertmesh.rpc.channels import MAX_MESSAGE_BYTES
from expertmesh.wire.calls import ExpertCall, split_call

# What a message has room for, beside its envelope, however wide a row is.
MAX_ANSWER_BYTES = MAX_MESSAGE_BYTES // 2


class LayerStep:
    """Rows on their way through their experts, for the thread that sent them."""

    def __init__(
        self,
        dispatch: Dispatch,
        rows: ExpertCall,
        patience: Patience,
        device: torch.device,
        load: ExpertLoadCounter,
    ) -> None:
        config = dispatch.config
        deadline = time.monotonic() + config.wait_seconds
        waiting = Waiting(dispatch.roster, dispatch.hedges, dispatch.stragglers, config.call_timeout_seconds, deadline)
        trials = Trials(deadline, waiting)
        self._shape = rows.hidden.shape  # [T, D]
        self._device = device
        self._stragglers = dispatch.stragglers
        answer_rows = MAX_ANSWER_BYTES // (self._shape[1] * torch.float32.itemsize)
        rows_in_calls = max_call_rows(1, rows.topk_ids.shape[1])
        max_rows = min(config.max_piece_rows, min(config.max_call_rows, answer_rows) // rows_in_calls)
        self._pieces: list[Piece] = []
        for part in split_call(rows, max_rows):
            first = sum(piece.num_rows for piece in self._pieces)
            numbers = range(first, first + len(part.topk_ids))
            shortage = Shortage(dispatch.roster, config.wait_seconds, config.no_replica, part, numbers, patience)
            self._pieces.append(Piece(dispatch, trials, part, shortage, load.step(part.layer, part.topk_ids)))

    def start(self) -> None:
        """Send every replica its rows; see ``Piece.send``."""
        self._stragglers.look()
        try:
            for piece in self._pieces:
                piece.send()
        except BaseException:
            self.abandon()
            raise

    def finish(self) -> torch.Tensor:
        """Return, for each row, the sum of weight x expert(row) [T, D] float32; see ``Piece.receive``."""
        try:
            return self._receive().to(self._device)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Wait for nothing any more."""
        for piece in self._pieces:
            piece.end()

    def _receive(self) -> torch.Tensor:
        if len(self._pieces) == 1:
            return self._pieces[0].receive()
        total = torch.empty(self._shape, dtype=torch.float32)  # [T, D]
        for piece, out in zip(self._pieces, total.split([piece.num_rows for piece in self._pieces]), strict=True):
            piece.receive(out)
        return total
