from itertools import islice, pairwise

import pytest

from expertmesh.loadgen.lengths import Uniform
from expertmesh.loadgen.load import Load, arrivals, questions
from expertmesh.loadgen.prompts import GivenPrompts, RandomPrompts, TokenIds

PROMPTS = RandomPrompts(TokenIds(range(1000, 32000)), Uniform(3, 9), 0.5)
LOAD = Load(PROMPTS, Uniform(1, 4), num_requests=20, num_clients=2, seed=7)


def test_equal_loads_ask_equal_questions_and_the_warmup_asks_others():
    asked = list(questions(LOAD))
    assert asked == list(questions(LOAD))
    warmup = list(questions(LOAD.warmup(20)))
    assert len(warmup) == len(asked) == 20
    assert not [question for question in warmup if question in asked]
    assert {question.prompt[0] for question in warmup} == {question.prompt[0] for question in asked}


def test_a_load_without_an_end_has_the_same_questions():
    endless = Load(PROMPTS, Uniform(1, 4), num_clients=2, seed=7, max_seconds=1.0)
    assert list(islice(questions(endless), 20)) == list(questions(LOAD))


def test_a_warmup_takes_given_prompts_that_are_not_asked_soon():
    load = Load(GivenPrompts(tuple("abcdef")), Uniform(1, 1), num_requests=4, rate=2.0, max_seconds=3.0)
    assert [question.prompt for question in questions(load)] == list("abcd")
    warmup = load.warmup(2)
    assert [question.prompt for question in questions(warmup)] == list("ef")
    assert (warmup.num_clients, warmup.rate, warmup.max_seconds) == (2, None, float("inf"))


def test_arrivals_are_a_poisson_process_from_a_seed():
    times = list(islice(arrivals(4.0, seed=1), 4000))
    assert times == list(islice(arrivals(4.0, seed=1), 4000))
    assert times[0] != next(arrivals(4.0, seed=2))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 4, rel=0.05)
    # The deviation of an exponential distribution is its mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(1 / 4, rel=0.05)
