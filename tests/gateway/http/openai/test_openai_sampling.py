import pytest

from expertmesh.gateway.http.errors import ModelNotFoundError, ParameterError
from expertmesh.gateway.http.openai.requests import ChatCompletionRequest
from expertmesh.gateway.http.openai.sampling import check_model, generation_request
from expertmesh.model.sampling import SamplingParams

DEFAULTS = SamplingParams(temperature=0.7, top_k=40)


def request(**fields):
    body = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "a"}], **fields})
    return generation_request(body, [1, 2], DEFAULTS)


def test_what_is_not_set_is_the_models_default():
    assert request().sampling == DEFAULTS
    assert request(temperature=None, top_k=None).sampling == DEFAULTS
    assert request(temperature=0.0).sampling == SamplingParams(temperature=0.0, top_k=40)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"top_k": -1}, "top_k", 0),
        ({"seed": -1}, "seed", 2**64 - 1),
        ({"seed": 5}, "seed", 5),
        ({"random_seed": 5}, "seed", 5),
        ({"random_seed": 5, "seed": 5}, "seed", 5),
        ({"logit_bias": {"7": -1, "8": 2.5}}, "logit_bias", ((7, -1.0), (8, 2.5))),
        ({"stop_token_ids": [3]}, "stop_ids", (3,)),
        ({"min_tokens": 3}, "min_tokens", 3),
        ({"prompt_logprobs": 0}, "prompt_logprobs", 0),
        ({"ignore_eos": True}, "ignore_eos", True),
    ],
)
def test_fields_of_another_form_are_translated(fields, name, value):
    assert getattr(request(**fields).sampling, name) == value


@pytest.mark.parametrize(("stop", "stops"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stop_is_a_string_or_a_list(stop, stops):
    assert request(stop=stop).stop == stops


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"seed": 1, "random_seed": 2}, "random_seed"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
    ],
)
def test_fields_that_contradict_each_other_are_named(fields, param):
    with pytest.raises(ParameterError) as error:
        request(**fields)
    assert error.value.param == param


def test_only_the_served_model_and_names_of_clients_that_know_none_are_taken():
    for name in (None, "served", "alias", "dummy", "tgi"):
        check_model(name, ("served", "alias"))
    with pytest.raises(ModelNotFoundError, match="'other' is not served here; 'served', 'alias' are"):
        check_model("other", ("served", "alias"))
