import random
from itertools import pairwise

import pytest
from serving.load import Load, LogNormal, TokenIds, Uniform, Words, arrivals, parse_lengths, questions

IDS = TokenIds(1000, 32000)
LOAD = Load(num_requests=20, prompt_tokens=Uniform(3, 9), output_tokens=Uniform(1, 4), num_clients=2, seed=7)


def test_lengths_are_read():
    assert parse_lengths("128") == Uniform(128, 128)
    assert parse_lengths("64:192") == Uniform(64, 192)
    assert parse_lengths("lognormal:100:0.5") == LogNormal(100.0, 0.5)


@pytest.mark.parametrize("text", ["", "0", "5:4", "1:2:3", "lognormal:0:1", "lognormal:5", "many"])
def test_what_is_no_length_is_refused(text):
    with pytest.raises(ValueError):
        parse_lengths(text)


@pytest.mark.parametrize("lengths", [Uniform(2, 5), LogNormal(4.0, 2.0)])
def test_lengths_stay_between_one_and_the_longest(lengths):
    rng = random.Random(0)
    drawn = [lengths.draw(rng) for _ in range(4000)]
    assert min(drawn) >= 1
    assert max(drawn) == lengths.longest


def test_half_of_lognormal_lengths_are_below_the_median():
    rng = random.Random(0)
    assert sum(LogNormal(100.0, 1.0).draw(rng) < 100 for _ in range(4000)) == pytest.approx(2000, rel=0.05)


def test_equal_loads_ask_equal_questions_and_the_warmup_asks_others():
    assert questions(LOAD, IDS) == questions(LOAD, IDS)
    assert questions(LOAD, IDS) != questions(LOAD.warmup(20), IDS)
    assert len(questions(LOAD.warmup(5), IDS)) == 5


def test_prompts_share_their_prefix_and_nothing_else():
    load = Load(10, Uniform(4, 4), Uniform(1, 1), shared_prefix=6, num_clients=1)
    prompts = [question.prompt for question in questions(load, IDS) + questions(load.warmup(10), IDS)]
    assert {len(prompt) for prompt in prompts} == {10}
    assert len({tuple(prompt[:6]) for prompt in prompts}) == 1
    assert len({tuple(prompt[6:]) for prompt in prompts}) == len(prompts)


def test_prompts_are_ids_of_the_range_or_words():
    assert all(1000 <= token < 1002 for q in questions(LOAD, TokenIds(1000, 1002)) for token in q.prompt)
    asked = questions(LOAD, Words(("red", "blue")))
    assert all(set(question.prompt.split(" ")) <= {"red", "blue"} for question in asked)
    assert all(3 <= len(question.prompt.split(" ")) <= 9 for question in asked)


def test_arrivals_are_a_poisson_process_from_a_seed():
    times = arrivals(4.0, 4000, seed=1)
    assert times == arrivals(4.0, 4000, seed=1)
    assert times != arrivals(4.0, 4000, seed=2)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 4, rel=0.05)
    # The deviation of an exponential distribution is its mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(1 / 4, rel=0.05)
