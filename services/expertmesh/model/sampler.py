"""From logits to tokens. Knows rows of logits and their parameters, not requests.

Alphabet: S rows, W of them described, V vocabulary, N alternatives.
"""

from collections.abc import Iterator, Sequence

import torch

from expertmesh.model.adjust import SamplingRow, adjust
from expertmesh.model.choice import Choice
from expertmesh.model.draws import DrawPlan
from expertmesh.model.rows import nearest_to_zero, select, to_device
from expertmesh.model.sampling import SamplingParams
from expertmesh.model.truncate import NUM_CANDIDATES


class Sampler:
    """Chooses tokens, step after step.

    What depends on parameters alone is kept on the device as long as the rows of a step stay the same. Penalties, bias
    and bans are copied to it in every step; a device is waited for once, to read what was chosen.
    """

    def __init__(self, num_candidates: int = NUM_CANDIDATES) -> None:
        self._num_candidates = num_candidates
        self._plan: _StepPlan | None = None

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, rows: Sequence[SamplingRow]) -> list[Choice]:
        """Choose a token for each row of ``logits`` [S, V] float32.

        A row's token does not depend on its neighbours, and among equals the lowest id comes first. Penalties, bias
        and bans change the logits; then come temperature and truncation; then the draw. Work that no row asks for is
        skipped: greedy rows cost one argmax.
        """
        plan = self._plan_for(logits, tuple(row.params for row in rows))
        scores = adjust(logits, rows)
        choices, redone = plan.choose(logits, scores, [row.noise for row in rows])
        if redone:
            indices = to_device(redone, torch.int64, logits.device)
            again = _StepPlan(logits, tuple(rows[index].params for index in redone), logits.shape[1])
            noises = [rows[index].noise for index in redone]
            others, _ = again.choose(logits[indices], scores[indices], noises)
            for index, choice in zip(redone, others, strict=True):
                choices[index] = choice
        return choices

    def _plan_for(self, logits: torch.Tensor, params: tuple[SamplingParams, ...]) -> "_StepPlan":
        if self._plan is None or not self._plan.fits(logits, params):
            self._plan = _StepPlan(logits, params, min(self._num_candidates, logits.shape[1]))
        return self._plan


def score(logits: torch.Tensor, token_ids: Sequence[int], num_top: int) -> list[Choice]:
    """Say how probable ``token_ids`` [S] are under ``logits`` [S, V] float32, and which ``num_top`` are the most."""
    tokens = to_device(token_ids, torch.int64, logits.device)
    return list(_tell(token_ids, [num_top] * len(token_ids), *_read(*_describe(logits, tokens, num_top))))


class _StepPlan:
    """What choosing tokens for rows with such parameters takes, whatever the logits are."""

    def __init__(self, logits: torch.Tensor, params: tuple[SamplingParams, ...], num_candidates: int) -> None:
        self._params = params
        self._shape, self._device = logits.shape, logits.device
        drawn = [index for index, row in enumerate(params) if row.temperature > 0]
        self._draws = DrawPlan(params, drawn, logits.shape[1], num_candidates, logits.device) if drawn else None
        self._are_all_drawn = len(drawn) == len(params)
        counts = [row.logprobs for row in params]
        self._described = [index for index, count in enumerate(counts) if count is not None]
        self._num_top = [count for count in counts if count is not None]
        is_part = 0 < len(self._described) < len(params)
        self._described_rows = to_device(self._described, torch.int64, logits.device) if is_part else None

    def fits(self, logits: torch.Tensor, params: tuple[SamplingParams, ...]) -> bool:
        """Whether it is for such rows."""
        return self._params == params and (self._shape, self._device) == (logits.shape, logits.device)

    def choose(
        self, logits: torch.Tensor, scores: torch.Tensor, noises: Sequence[float]
    ) -> tuple[list[Choice], list[int]]:
        """Choose a token for each row of ``scores`` [S, V], described under ``logits`` [S, V].

        Returns them and the rows whose candidates were too few, which are to be chosen for among all V.
        """
        tokens, is_exact = self._tokens(scores, noises)
        parts = [tokens]
        if is_exact is not None:
            parts.append(is_exact)
        if self._described:
            described = select(tokens, self._described_rows)
            parts += _describe(select(logits, self._described_rows), described, max(self._num_top))
        token_ids, *read = _read(*parts)
        redone = []
        if is_exact is not None:
            flags, *read = read
            redone = [row for row, is_done in zip(self._few_rows(), flags, strict=True) if not is_done]
        choices = [Choice(int(token_id)) for token_id in token_ids]
        if self._described:
            own = [choices[index].token_id for index in self._described]
            for index, choice in zip(self._described, _tell(own, self._num_top, *read), strict=True):
                choices[index] = choice
        return choices, redone

    def _tokens(self, scores: torch.Tensor, noises: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return tokens [S], and which draws among few candidates are exact."""
        tokens = scores.argmax(dim=-1) if not self._are_all_drawn else scores.new_empty(len(scores), dtype=torch.int64)
        if self._draws is None:
            return tokens, None
        drawn = self._draws.draw(scores, noises)
        return self._draws.put(drawn, tokens), drawn.is_exact

    def _few_rows(self) -> list[int]:
        assert self._draws is not None, "somebody was drawn"
        return self._draws.order[self._draws.few]


def _describe(
    logits: torch.Tensor, tokens: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logarithms of probabilities of ``tokens`` [W], and ids and logarithms of the most probable [W, N]."""
    logprobs = torch.log_softmax(logits, dim=-1)
    top_ids = nearest_to_zero(logprobs, num_top)
    return logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1), top_ids, logprobs.gather(1, top_ids)


def _tell(
    token_ids: Sequence[int],
    num_top: Sequence[int],
    own: Sequence[float],
    top_ids: Sequence[float],
    top_logprobs: Sequence[float],
) -> Iterator[Choice]:
    """Yield a described choice for each of ``token_ids`` [W]; what is said of the most probable lies row by row."""
    width = len(top_ids) // max(len(token_ids), 1)
    for row, (token_id, logprob, count) in enumerate(zip(token_ids, own, num_top, strict=True)):
        span = slice(row * width, row * width + count)
        best = zip(map(int, top_ids[span]), top_logprobs[span], strict=True)
        yield Choice(token_id, logprob, tuple(best))


def _read(*parts: torch.Tensor) -> Iterator[list[float]]:
    """Read all ``parts``, flattened, in one copy from their device; float64 holds ids and float32 as they are."""
    if len(parts) == 1:
        yield parts[0].tolist()
        return
    values = torch.cat([part.flatten().double() for part in parts]).tolist()
    start = 0
    for part in parts:
        yield values[start : start + part.numel()]
        start += part.numel()
