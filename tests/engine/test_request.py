import pytest

from expertmesh.engine.request import Limits, Request
from expertmesh.errors import InvalidRequestError
from expertmesh.model.sampling import SamplingParams

LIMITS = Limits(max_model_len=8, vocab_size=100)


def test_the_longest_prompt_leaves_room_for_one_token():
    LIMITS.check(Request((1,) * 7, SamplingParams()))


@pytest.mark.parametrize(
    ("ids", "message"),
    [((), "no tokens"), ((1,) * 8, "8 tokens.*at most 7"), ((1, 100), "100 is outside"), ((-1,), "-1 is outside")],
)
def test_prompts_that_cannot_be_served_are_named(ids: tuple[int, ...], message: str):
    with pytest.raises(InvalidRequestError, match=message):
        LIMITS.check(Request(ids, SamplingParams()))


def test_a_request_that_never_fits_is_refused_for_good():
    limits = Limits(max_model_len=8, vocab_size=100, max_sequences=3)
    limits.check(Request((1,), SamplingParams(), num_in_all=3))
    with pytest.raises(InvalidRequestError, match="asks for 4 sequences.*at most 3") as error:
        limits.check(Request((1,), SamplingParams(), num_in_all=4))
    assert error.value.param == "n"


def test_sampling_is_checked_too():
    with pytest.raises(InvalidRequestError, match="top_p"):
        LIMITS.check(Request((1,), SamplingParams(top_p=2)))
