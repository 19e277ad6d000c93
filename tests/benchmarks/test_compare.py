import math

import pytest
from serving.compare import Objective, compare, figures

from expertmesh.loadgen.client import Answer
from expertmesh.loadgen.pacing import Run

SLOW = Answer(sent=10.0, pieces=(11.0, 11.5, 13.0), finished=13.0, prompt_tokens=7, output_tokens=5)
QUICK = Answer(sent=10.0, pieces=(10.5, 10.75), finished=10.75, prompt_tokens=3, output_tokens=2)
FAILED = Answer(sent=10.0, pieces=(10.1,), finished=10.2, error="HTTP 429: full")
LENIENT = Objective(10.0, 10.0)
RUN = Run("mesh", (SLOW, QUICK, FAILED), seconds=4.0)


def values(run, objective=LENIENT):
    return {figure.metric: figure.value for figure in figures(run, objective)}


def test_figures_are_those_of_the_summary():
    measured = values(RUN)
    assert (measured["output_tokens_per_second"], measured["ttft_p50_seconds"]) == (7 / 4, 0.75)
    assert (measured["prompt_tokens"], measured["errors"], measured["seconds"]) == (10, 1, 4.0)
    assert math.isnan(values(Run("mesh", (FAILED,), 1.0))["ttft_p99_seconds"])


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
