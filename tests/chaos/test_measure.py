import pytest
from faults.load import NUM_TOKENS, QUESTIONS, Arrival, Load, Reply
from faults.measure import judge
from faults.mesh import Transport
from faults.scenarios import SCENARIOS

SENT, ONSET = 10.0, 12.0
IDS = list(range(NUM_TOKENS))
TEXTS = {question: IDS for question in QUESTIONS}


def reply(number: int = 0, whens=(11.0, 12.5, 12.6), ids=IDS, error=None) -> Reply:
    return Reply(QUESTIONS[number], SENT, list(ids), [Arrival(when, 2) for when in whens], error)


def judged(*replies: Reply):
    return judge(SCENARIOS[0], Transport.TCP, replies, TEXTS, ONSET, 1.0)


def test_waits_count_from_the_piece_before_or_from_the_question():
    assert reply().waits(ONSET) == pytest.approx([1.5, 0.1])
    assert reply(whens=[13.0]).waits(ONSET) == [3.0]
    outcome = judged(reply(), reply(whens=[13.0]))
    assert outcome.longest_wait == outcome.p99_wait == 3.0


def test_what_failed_and_what_differs_is_counted():
    outcome = judged(reply(), reply(1, ids=IDS[:-1]), reply(2, error="UNAVAILABLE"), reply(3, ids=[1, *IDS[1:]]))
    assert (outcome.num_requests, outcome.num_differing, outcome.errors) == (4, 2, ("UNAVAILABLE",))
    assert not outcome.is_as_promised
    assert judged(reply()).is_as_promised


def test_a_request_that_got_nothing_leaves_a_wait_without_an_end():
    assert judged(reply(whens=[], ids=[], error="UNAVAILABLE")).longest_wait == float("inf")


def test_tokens_are_counted_by_when_they_came():
    load = Load("nowhere:1")
    load.replies = [reply(), reply(whens=[12.2])]
    assert load.tokens_per_second(ONSET, ONSET + 2) == 3.0
