import msgspec
import pytest

from expertmesh import errors
from expertmesh.engine.messages import (
    Cancel,
    EngineError,
    Failed,
    Submit,
    TokenDelta,
    Tokens,
    decode_error,
    encode_error,
)
from expertmesh.engine.request import FinishReason, Request
from expertmesh.errors import ComputeError, ExpertmeshError, InvalidRequestError, PromptTooLongError
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams

SAMPLING = SamplingParams(max_tokens=3, temperature=0.5, logit_bias=((3, 1.5),), stop_ids=(4,), seed=2**64 - 1)
DELTA = TokenDelta(
    Choice(7, -0.25, ((7, -0.25), (9, -1.5))), FinishReason.STOP, 16, (Choice(2, -3.0),), ((0, 1), (2, 3))
)
MESSAGES = [
    Submit(3, Request((1, 2), SAMPLING, ("regex", "[a]+"), True, traceparent="00-ab-cd-01"), (5, 6)),
    Cancel(3, "cancelled"),
    Tokens([(3, DELTA), (4, TokenDelta(Choice(8), None))]),
    Failed(3, encode_error(InvalidRequestError("n is 0", "n"))),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_out_as_it_went_in(message):
    decoder = msgspec.msgpack.Decoder(Submit | Cancel | Tokens | Failed)
    assert decoder.decode(msgspec.msgpack.encode(message)) == message


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ExpertmeshError)]


@pytest.mark.parametrize("kind", [*KINDS, EngineError])
def test_every_error_comes_out_as_it_went_in(kind):
    found = decode_error(encode_error(kind("layer 3: a message")))
    assert type(found) is kind
    assert str(found) == "layer 3: a message"


def test_the_field_that_is_to_blame_comes_along():
    found = decode_error(encode_error(PromptTooLongError("too long", "prompt")))
    assert isinstance(found, PromptTooLongError)
    assert found.param == "prompt"


def test_an_error_of_an_unknown_class_becomes_the_nearest_that_is_known():
    class OddError(ComputeError):
        pass

    assert type(decode_error(encode_error(OddError("odd")))) is ComputeError
