import math

import pytest
from serving.client import Answer
from serving.metrics import Objective, compare, figures, gaps, percentile, tpot, ttft
from serving.pacing import Run

# First piece after 1 s, two more at 1.5 s and 3 s; five tokens, as one piece may carry several.
SLOW = Answer(sent=10.0, pieces=(11.0, 11.5, 13.0), finished=13.0, prompt_tokens=7, output_tokens=5)
QUICK = Answer(sent=10.0, pieces=(10.5, 10.75), finished=10.75, prompt_tokens=3, output_tokens=2)
FAILED = Answer(sent=10.0, pieces=(10.1,), finished=10.2, error="HTTP 429: full")
LENIENT = Objective(10.0, 10.0)
RUN = Run("mesh", (SLOW, QUICK, FAILED), seconds=4.0)


def values(run, objective=LENIENT):
    return {figure.metric: figure.value for figure in figures(run, objective)}


def test_times_of_an_answer():
    assert ttft(SLOW) == 1.0
    assert tpot(SLOW) == 0.5
    assert gaps(SLOW) == [0.5, 1.5]


def test_an_answer_without_text_has_its_first_token_at_the_end():
    silent = Answer(sent=1.0, finished=3.0, output_tokens=1)
    assert (ttft(silent), tpot(silent), gaps(silent)) == (2.0, 0.0, [])


def test_percentiles_lie_between_values():
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([0.0, 100.0], 99) == pytest.approx(99.0)
    assert math.isnan(percentile([], 50))


def test_a_run_counts_whole_answers_only():
    measured = values(RUN)
    assert measured["output_tokens_per_second"] == 7 / 4
    assert measured["requests_per_second"] == 2 / 4
    assert measured["prompt_tokens"] == 10
    assert measured["tokens_per_piece"] == 7 / 5
    assert measured["ttft_p50_seconds"] == 0.75
    assert measured["tpot_p50_seconds"] == 0.375
    assert measured["itl_p50_seconds"] == 0.5
    assert measured["errors"] == 1


@pytest.mark.parametrize(
    ("objective", "good"),
    [(Objective(1.0, 0.5), 2), (Objective(0.9, 0.5), 1), (Objective(1.0, 0.4), 1), (Objective(0.1, 0.1), 0)],
)
def test_goodput_counts_answers_that_keep_both_limits(objective, good):
    assert values(RUN, objective)["goodput"] == good / 4


def test_runs_are_compared_metric_by_metric():
    other = Run("peer", (QUICK,), seconds=1.0)
    rows = {row.metric: row for row in compare("2 clients", [RUN, other], LENIENT)}
    assert rows["output_tokens_per_second"].value == 7 / 4
    assert rows["output_tokens_per_second"].peer == "peer"
    assert rows["output_tokens_per_second"].peer_value == 2.0
    assert all(row.peer is None for row in compare("2 clients", [RUN], LENIENT))
