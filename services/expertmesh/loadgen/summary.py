"""What the answers of a run come to. Knows times and counts, not servers.

TTFT: request sent to first piece of text. TPOT: mean time per further token of one answer. ITL: gap between two pieces;
a piece is what one event carries, usually one token. E2E: request sent to the end of its answer. Percentiles are over
answers (TTFT, TPOT, E2E) or over all gaps (ITL).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from expertmesh.loadgen.client import Answer
from expertmesh.loadgen.pacing import Run


@dataclass(frozen=True)
class Spread:
    """How values are spread; percentiles are linear between values."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Failure:
    """An error that ``count`` requests ended with; ``status`` is that of HTTP, None where no response began."""

    status: int | None
    error: str
    count: int


@dataclass(frozen=True)
class Summary:
    """The figures of a run; failed requests count as failures and in nothing else. None: there was nothing to measure.

    ``num_unfinished`` were sent and not answered when the run was interrupted.
    """

    seconds: float
    num_answered: int
    num_failed: int
    num_unfinished: int
    prompt_tokens: int
    output_tokens: int
    requests_per_second: float
    prompt_tokens_per_second: float
    output_tokens_per_second: float
    tokens_per_piece: float | None
    ttft_seconds: Spread | None
    tpot_seconds: Spread | None
    itl_seconds: Spread | None
    e2e_seconds: Spread | None
    failures: tuple[Failure, ...]


def summarize(run: Run) -> Summary:
    """Work out the figures of a run."""
    whole = [answer for answer in run.answers if answer.error is None]
    prompt_tokens = sum(answer.prompt_tokens for answer in whole)
    output_tokens = sum(answer.output_tokens for answer in whole)
    num_pieces = sum(len(answer.pieces) for answer in whole)
    return Summary(
        seconds=run.seconds,
        num_answered=len(whole),
        num_failed=len(run.answers) - len(whole),
        num_unfinished=run.num_unfinished,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        requests_per_second=len(whole) / run.seconds,
        prompt_tokens_per_second=prompt_tokens / run.seconds,
        output_tokens_per_second=output_tokens / run.seconds,
        tokens_per_piece=output_tokens / num_pieces if num_pieces else None,
        ttft_seconds=spread([ttft(answer) for answer in whole]),
        tpot_seconds=spread([tpot(answer) for answer in whole if answer.output_tokens > 1]),
        itl_seconds=spread([gap for answer in whole for gap in gaps(answer)]),
        e2e_seconds=spread([e2e(answer) for answer in whole]),
        failures=count_failures(run.answers),
    )


def count_failures(answers: Sequence[Answer]) -> tuple[Failure, ...]:
    """Count which errors there were, the most frequent first."""
    counts = Counter((answer.status, answer.error) for answer in answers if answer.error is not None)
    return tuple(Failure(status, error, count) for (status, error), count in counts.most_common())


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and percentiles; None where there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Spread(fmean(ordered), *(percentile(ordered, percent) for percent in (50, 90, 99)))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of ascending values, linear between them."""
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def ttft(answer: Answer) -> float:
    """Return the seconds to the first piece; to the end, for an answer without any text."""
    return (answer.pieces[0] if answer.pieces else answer.finished) - answer.sent


def tpot(answer: Answer) -> float:
    """Return the mean seconds per token after the first; 0 for an answer of one token."""
    if answer.output_tokens < 2:
        return 0.0
    return (e2e(answer) - ttft(answer)) / (answer.output_tokens - 1)


def gaps(answer: Answer) -> list[float]:
    """Return the seconds between each two pieces."""
    return [later - earlier for earlier, later in pairwise(answer.pieces)]


def e2e(answer: Answer) -> float:
    """Return the seconds from the request to the end of its answer."""
    return answer.finished - answer.sent
