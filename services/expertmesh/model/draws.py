"""Drawing tokens for many rows, each with parameters of its own. Knows scores and parameters, not requests.

Nothing here waits for a device. Alphabet: S rows, D of them drawn, F of these cut among few candidates, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from expertmesh.model.rows import select, to_device
from expertmesh.model.sampling import SamplingParams
from expertmesh.model.truncate import Cuts, is_truncated, may_do_with

# Beyond these bounds, which float32 can divide by, a draw is greedy or uniform all the same.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30


@dataclass(frozen=True)
class Drawn:
    """Tokens [D] in the order of their plan, and which of those cut among few candidates [F] are not to be redone."""

    tokens: torch.Tensor
    is_exact: torch.Tensor | None


class DrawPlan:
    """How the rows ``drawn`` of S rows are drawn: what stays the same from step to step, on the device of the scores.

    ``order`` are the rows in the order in which they are drawn: those without a cut, those at ``few`` that are cut
    among ``num_candidates``, and those for which so many cannot be enough.
    """

    def __init__(
        self,
        params: Sequence[SamplingParams],
        drawn: Sequence[int],
        vocab_size: int,
        num_candidates: int,
        device: torch.device,
    ) -> None:
        is_few = {
            row: num_candidates < vocab_size and may_do_with(params[row], num_candidates)
            for row in drawn
            if is_truncated(params[row])
        }
        self.order = sorted(drawn, key=lambda row: (row in is_few, not is_few.get(row, False)))
        first = len(drawn) - len(is_few)
        middle = first + sum(is_few.values())
        self.few, whole = slice(first, middle), slice(middle, len(drawn))
        self._rows = None if self.order == list(range(len(params))) else to_device(self.order, torch.int64, device)
        temperatures = [min(max(params[row].temperature, MIN_TEMPERATURE), MAX_TEMPERATURE) for row in self.order]
        self._temperatures = to_device(temperatures, torch.float32, device).unsqueeze(1)  # [D, 1]
        self._cuts = [
            (span, Cuts([params[row] for row in self.order[span]], num, device))
            for span, num in ((self.few, num_candidates), (whole, vocab_size))
            if span.start < span.stop
        ]

    def draw(self, scores: torch.Tensor, noises: Sequence[float]) -> Drawn:
        """Draw from ``scores`` [S, V] float32 what the ``noises`` of the S rows decide."""
        scaled = self._scale(select(scores, self._rows))  # [D, V]
        probabilities = torch.softmax(scaled, dim=-1)
        is_exact = None
        for span, cuts in self._cuts:
            candidates = cuts.apply(scaled[span], probabilities[span])
            if span is self.few:
                is_exact = cuts.are_enough(candidates)
        column = to_device([noises[row] for row in self.order], torch.float64, scores.device).unsqueeze(1)  # [D, 1]
        return Drawn(_pick(probabilities, column), is_exact)

    def put(self, drawn: Drawn, tokens: torch.Tensor) -> torch.Tensor:
        """Put drawn tokens where their rows are in ``tokens`` [S]."""
        return drawn.tokens if self._rows is None else tokens.index_copy_(0, self._rows, drawn.tokens)

    def _scale(self, scores: torch.Tensor) -> torch.Tensor:
        """Divide by the temperature, with the best score moved to 0 first, so that no quotient overflows upwards."""
        return (scores - scores.amax(dim=-1, keepdim=True)) / self._temperatures


def _pick(probabilities: torch.Tensor, noises: torch.Tensor) -> torch.Tensor:
    """Return for each row the first id [S] at which the probabilities so far exceed their sum times its noise."""
    cumulative = probabilities.double().cumsum(dim=-1)  # [S, V]
    whole = cumulative[:, -1:]
    # Noise just below 1 may round up to the whole sum, which nothing exceeds.
    targets = torch.minimum(noises * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    picked = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    return picked.clamp(max=probabilities.shape[1] - 1)
