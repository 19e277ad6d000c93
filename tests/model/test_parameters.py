"""The table of sampling parameters is what every interface says of them."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from expertmesh.client import Sampling
from expertmesh.gateway.http.openai.requests import ChatCompletionRequest, CompletionRequest
from expertmesh.gateway.http.tgi.models import Parameters
from expertmesh.model.sampling import PARAMETERS, SamplingParams
from expertmesh.v1 import generation_pb2 as pb

ROOT = Path(__file__).parents[2]
PROTO = (ROOT / "protos/expertmesh/v1/generation.proto").read_text()
API = (ROOT / "docs/api.md").read_text()
MESSAGE = pb.SamplingParams.DESCRIPTOR
KINDS = {
    MESSAGE.fields[0].CPPTYPE_UINT32: int,
    MESSAGE.fields[0].CPPTYPE_UINT64: int,
    MESSAGE.fields[0].CPPTYPE_FLOAT: float,
    MESSAGE.fields[0].CPPTYPE_BOOL: bool,
}
# Fields of other names, of replies or of another kind.
OPENAI = {"stop_token_ids": "stop_ids", "max_completion_tokens": "max_tokens", "top_logprobs": "logprobs"}
TGI = {"max_new_tokens": "max_tokens", "top_n_tokens": "logprobs"}
# Where a JSON API takes more, or less, than the engine: (interface, field) to the bounds that are its own.
OWN_BOUNDS = {
    (ChatCompletionRequest, "top_k"): {"ge": -1},
    (ChatCompletionRequest, "seed"): {"ge": -(2**63)},
    (CompletionRequest, "top_k"): {"ge": -1},
    (CompletionRequest, "seed"): {"ge": -(2**63)},
    (CompletionRequest, "max_tokens"): {"ge": 0},
    (Parameters, "temperature"): {"gt": 0},
}


def comments():
    """Read what the proto says above each field of SamplingParams."""
    [body] = re.findall(r"message SamplingParams \{\n(.*?)\n\}", PROTO, re.DOTALL)
    found = re.findall(r"((?:  //[^\n]*\n)+)  [^\n/]*?(\w+) = \d+;", body + "\n")
    return {name: " ".join(comment.replace("//", "").split()) for comment, name in found}


def kinds(settings):
    """Return the type of each field where it is one of a number, without None."""
    hints = get_type_hints(settings).items()
    return {name: kind for name, hint in hints for kind in (int, float, bool) if hint in (kind, kind | None)}


def test_messages_and_clients_have_the_same_parameters():
    assert {field.name for field in MESSAGE.fields} == set(PARAMETERS) == {field.name for field in fields(Sampling)}


def test_messages_and_clients_have_the_same_types():
    numbers = {field.name: KINDS[field.cpp_type] for field in MESSAGE.fields if not field.is_repeated}
    assert numbers == kinds(SamplingParams) == kinds(Sampling)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_proto_says_range_and_default(name):
    parameter, default, said = PARAMETERS[name], getattr(SamplingParams, name), comments()[name]
    match parameter.bounds:
        case {"ge": low, "le": high} if name != "seed":
            assert f"{low:g} to {high:g}" in said
        case {"gt": 0, "le": 1}:
            assert "(0, 1]" in said
        case {"gt": 0}:
            assert "above 0" in said
        case {"ge": 1}:
            assert "at least 1" in said
    if isinstance(default, int | float) and not isinstance(default, bool):
        assert f"Default {default:g}." in said


@pytest.mark.parametrize(
    ("model", "renamed"), [(ChatCompletionRequest, OPENAI), (CompletionRequest, OPENAI), (Parameters, TGI)]
)
def test_requests_over_http_have_the_ranges(model, renamed):
    checked = 0
    for field, info in model.model_fields.items():
        name = renamed.get(field, field)
        if name not in PARAMETERS or info.annotation not in (int | None, float | None):
            continue
        bounds = {key: getattr(one, key) for one in info.metadata for key in ("ge", "gt", "le") if hasattr(one, key)}
        own = OWN_BOUNDS.get((model, field))
        low = own if own else {key: bound for key, bound in PARAMETERS[name].bounds.items() if key != "le"}
        high = PARAMETERS[name].bounds.get("le", bounds.get("le"))
        assert bounds == low | ({} if high is None else {"le": high}), field
        checked += 1
    assert checked >= 8


def test_the_document_says_how_many_logprobs():
    limits = set(re.findall(r"\(up to (\d+)\)", API))
    assert limits == {str(PARAMETERS["logprobs"].le)}
