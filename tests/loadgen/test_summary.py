import random

import numpy as np
import pytest

from expertmesh.loadgen.client import Answer
from expertmesh.loadgen.pacing import Run
from expertmesh.loadgen.summary import Failure, Spread, e2e, gaps, percentile, spread, summarize, tpot, ttft

# First piece after 1 s, two more at 1.5 s and 3 s; five tokens, as one piece may carry several.
SLOW = Answer(sent=10.0, pieces=(11.0, 11.5, 13.0), finished=13.0, prompt_tokens=7, output_tokens=5)
QUICK = Answer(sent=10.0, pieces=(10.5, 10.75), finished=10.75, prompt_tokens=3, output_tokens=2)
FULL = Answer(sent=10.0, pieces=(10.1,), finished=10.2, status=429, error="HTTP 429: full")
LOST = Answer(sent=10.0, finished=10.2, error="ConnectError: refused")


def test_times_of_an_answer():
    assert (ttft(SLOW), tpot(SLOW), e2e(SLOW)) == (1.0, 0.5, 3.0)
    assert gaps(SLOW) == [0.5, 1.5]


def test_an_answer_without_text_has_its_first_token_at_the_end():
    silent = Answer(sent=1.0, finished=3.0, output_tokens=1)
    assert (ttft(silent), tpot(silent), gaps(silent), e2e(silent)) == (2.0, 0.0, [], 2.0)


def test_percentiles_lie_between_values():
    assert spread([3.0, 1.0, 2.0]) == Spread(mean=2.0, p50=2.0, p90=pytest.approx(2.8), p99=pytest.approx(2.98))
    assert spread([]) is None


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_are_those_of_numpy(count):
    rng = random.Random(count)
    values = sorted(rng.random() for _ in range(count))
    for percent in (0, 50, 90, 99, 100):
        assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_a_run_counts_whole_answers_only():
    summary = summarize(Run("mesh", (SLOW, QUICK, FULL, LOST, FULL), seconds=4.0, num_unfinished=2))
    assert (summary.num_answered, summary.num_failed, summary.num_unfinished) == (2, 3, 2)
    assert (summary.prompt_tokens, summary.output_tokens, summary.tokens_per_piece) == (10, 7, 7 / 5)
    assert (summary.requests_per_second, summary.prompt_tokens_per_second) == (2 / 4, 10 / 4)
    assert summary.output_tokens_per_second == 7 / 4
    assert (summary.ttft_seconds.p50, summary.ttft_seconds.mean) == (0.75, 0.75)
    assert (summary.tpot_seconds.p50, summary.itl_seconds.p50, summary.e2e_seconds.mean) == (0.375, 0.5, 1.875)


def test_failures_are_counted_by_status_and_error():
    assert summarize(Run("mesh", (LOST, FULL, SLOW, FULL), 1.0)).failures == (
        Failure(429, "HTTP 429: full", 2),
        Failure(None, "ConnectError: refused", 1),
    )


def test_a_run_without_answers_has_no_times():
    summary = summarize(Run("mesh", (LOST,), seconds=1.0))
    assert (summary.requests_per_second, summary.tokens_per_piece) == (0.0, None)
    assert (summary.ttft_seconds, summary.tpot_seconds, summary.itl_seconds, summary.e2e_seconds) == (None,) * 4
