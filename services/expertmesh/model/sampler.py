"""From logits to tokens. Knows rows of logits and their parameters, not requests.

Alphabet: S rows, V vocabulary.
"""

from collections.abc import Sequence

import torch

from expertmesh.model.sampling import SamplingParams


def sample(
    logits: torch.Tensor,
    params: Sequence[SamplingParams],
    seen: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
) -> torch.Tensor:
    """Choose a token id [S] for each row of ``logits`` [S, V] float32.

    ``seen`` are the tokens of prompt and output so far, for the repetition penalty; ``generators`` are the rows' own
    sources of noise. A row's token does not depend on its neighbours. Work that no row asks for is skipped: greedy
    rows cost one argmax, top_k and top_p a sort of the rows that sample.
    """
    logits = _penalise_repetition(logits, params, seen)
    tokens = logits.argmax(dim=-1)  # [S]
    random_rows = [row for row, param in enumerate(params) if param.temperature > 0]
    if random_rows:
        drawn = _draw(logits[random_rows], [params[r] for r in random_rows], [generators[r] for r in random_rows])
        tokens[random_rows] = drawn
    return tokens


def _penalise_repetition(
    logits: torch.Tensor, params: Sequence[SamplingParams], seen: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Divide positive and multiply negative logits of seen tokens (Keskar et al., 2019)."""
    rows = [row for row, param in enumerate(params) if param.repetition_penalty != 1.0]
    if not rows:
        return logits
    logits = logits.clone()
    for row in rows:
        ids = torch.tensor(sorted(set(seen[row])), dtype=torch.int64, device=logits.device)
        values = logits[row, ids]
        penalty = params[row].repetition_penalty
        logits[row, ids] = torch.where(values > 0, values / penalty, values * penalty)
    return logits


def _draw(
    logits: torch.Tensor, params: Sequence[SamplingParams], generators: Sequence[torch.Generator]
) -> torch.Tensor:
    # Within these bounds no quotient overflows; beyond them a draw is greedy or uniform all the same.
    temperatures = torch.tensor([min(max(p.temperature, 1e-30), 1e30) for p in params], device=logits.device)
    logits = _truncate(logits / temperatures.unsqueeze(1), params)
    noise = torch.stack([_exponential(logits.shape[1], generator) for generator in generators])  # [S, V]
    # argmax(p / Exp(1)) is a draw from p: the exponential race, one noise per row whatever the batch.
    return (torch.softmax(logits, dim=-1) / noise).argmax(dim=-1)


def _exponential(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.empty(size, device=generator.device).exponential_(generator=generator)


def _truncate(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Keep the top_k tokens, then of these the most probable ones that reach top_p; the rest become -inf."""
    vocab_size = logits.shape[1]
    top_k = torch.tensor([min(p.top_k or vocab_size, vocab_size) for p in params], device=logits.device).unsqueeze(1)
    top_p = torch.tensor([param.top_p for param in params], device=logits.device).unsqueeze(1)
    if (top_k >= vocab_size).all() and (top_p >= 1).all():
        return logits
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)  # [S, V]
    ordered = ordered.masked_fill(torch.arange(vocab_size, device=logits.device) >= top_k, -torch.inf)
    probabilities = torch.softmax(ordered, dim=-1)
    # A token stays while those before it have not reached top_p: the first one always does.
    reached = probabilities.cumsum(dim=-1) - probabilities >= top_p
    return torch.empty_like(logits).scatter_(1, ids, ordered.masked_fill(reached & (top_p < 1), -torch.inf))
