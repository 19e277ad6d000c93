"""What a client asks for arrives, and what the generator says gets back: through both codecs and the bytes between."""

from dataclasses import fields

import pytest

from expertmesh.client import JsonObject, JsonSchema, Output, Piece, Regex, Sampling, TokenLogprob, TokenLogprobs
from expertmesh.client.codec import decode_delta, encode_generate
from expertmesh.engine.request import FinishReason
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.api.generation_codec import decode_request, encode_delta
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.v1 import generation_pb2 as pb

DEFAULTS = SamplingParams(temperature=0.5, top_k=50)


def arrive(sampling: Sampling = Sampling(), output: Output = Output()) -> GenerationRequest:
    data = encode_generate([1, 2], sampling, output).SerializeToString()
    request = pb.GenerateRequest.FromString(data)
    return decode_request(request.token_ids.ids, request.sampling, request.output, DEFAULTS)


def get_back(delta: TextDelta, sampling: SamplingParams) -> Piece:
    data = encode_delta(delta, sampling, lambda token_id: b"t%d" % token_id).SerializeToString()
    return decode_delta(pb.Delta.FromString(data))


def test_what_is_not_set_is_the_default():
    assert arrive() == GenerationRequest((1, 2), DEFAULTS)


def test_every_sampling_field_arrives():
    # Numbers that float32 holds exactly.
    values = {
        "max_tokens": 9,
        "min_tokens": 3,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 0.75,
        "min_p": 0.25,
        "typical_p": 0.5,
        "repetition_penalty": 1.25,
        "frequency_penalty": -0.5,
        "presence_penalty": 1.5,
        "seed": 2**64 - 1,
        "ignore_eos": True,
        "logprobs": 0,
        "prompt_logprobs": 20,
    }
    asked = Sampling(**values, logit_bias={9: -100.0, 3: 0.5}, stop_ids=[7, 5])
    expected = SamplingParams(**values, logit_bias=((3, 0.5), (9, -100.0)), stop_ids=(7, 5))
    assert arrive(asked).sampling == expected
    assert {field.name for field in fields(SamplingParams)} == {*values, "logit_bias", "stop_ids"}


def test_every_output_field_arrives():
    asked = Output(["a", "b"], 2, 5, Regex("[0-9]+"), return_routed_experts=True, no_replica="drop")
    assert arrive(output=asked) == GenerationRequest(
        (1, 2),
        DEFAULTS,
        stop=("a", "b"),
        n=2,
        best_of=5,
        grammar=Grammar(GrammarKind.REGEX, "[0-9]+"),
        return_routed_experts=True,
        no_replica="drop",
    )


def test_an_unknown_number_of_a_policy_is_refused():
    message = encode_generate("x", Sampling(), Output())
    message.output.no_replica = 9
    with pytest.raises(InvalidRequestError, match="no_replica is 9"):
        decode_request([1], message.sampling, message.output, DEFAULTS)


@pytest.mark.parametrize(
    ("response_format", "grammar"),
    [
        (JsonObject(), Grammar(GrammarKind.JSON_OBJECT)),
        (JsonSchema({"type": "string"}), Grammar(GrammarKind.JSON_SCHEMA, '{"type": "string"}')),
        (Regex("a*"), Grammar(GrammarKind.REGEX, "a*")),
    ],
)
def test_formats_arrive(response_format, grammar):
    assert arrive(output=Output(response_format=response_format)).grammar == grammar


def test_a_format_that_names_none_is_refused():
    output = pb.OutputParams(response_format=pb.ResponseFormat())
    with pytest.raises(InvalidRequestError, match="response_format is empty"):
        decode_request([1], pb.SamplingParams(), output, DEFAULTS)


def test_zero_answers_are_zero_and_not_the_default():
    with pytest.raises(InvalidRequestError, match="n is 0"):
        arrive(output=Output(n=0)).validate()


def test_a_whole_delta_gets_back():
    delta = TextDelta(
        index=1,
        text="ab",
        token=Choice(7, -0.5, ((7, -0.5), (8, -1.5))),
        finish_reason=FinishReason.STOP_SEQUENCE,
        stop="END",
        num_prompt_tokens=5,
        num_cached_tokens=4,
        num_output_tokens=3,
        prompt_logprobs=(Choice(2, -2.5),),
        routed_experts=((0, 3), (5, 1)),
    )
    token, other = TokenLogprob(7, -0.5, b"t7"), TokenLogprob(8, -1.5, b"t8")
    assert get_back(delta, SamplingParams(logprobs=2)) == Piece(
        text="ab",
        token_ids=(7,),
        finish_reason="stop_sequence",
        num_prompt_tokens=5,
        num_output_tokens=3,
        index=1,
        num_cached_tokens=4,
        stop="END",
        logprobs=(TokenLogprobs(token, (token, other)),),
        prompt_logprobs=(TokenLogprobs(TokenLogprob(2, -2.5, b"t2"), ()),),
        routed_experts=(((0, 3), (5, 1)),),
    )


def test_counts_wait_for_the_last_piece_and_logprobs_for_being_asked_for():
    # best_of has logprobs computed for itself.
    delta = TextDelta(0, "a", Choice(7, -0.5), None, None, 5, 4, 1)
    assert get_back(delta, SamplingParams()) == Piece("a", (7,), None, 0, 0)


@pytest.mark.parametrize("reason", FinishReason)
def test_every_finish_reason_has_its_word(reason):
    delta = TextDelta(0, "", Choice(7), reason, None, 5, 0, 1)
    assert get_back(delta, SamplingParams()).finish_reason == reason.value
