"""Answers that call by their own choice: a script stands for the model."""

import asyncio
from collections.abc import Sequence

import pytest
from chat_files import HERMES_TOOLS, copy_version
from scripted_engine import ScriptedEngine

from expertmesh.engine.request import FinishReason
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.api.generation_codec import encode_delta
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.openai.common import finish_reason
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.call_parser import join_calls
from expertmesh.text.conversation import Message
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.jinja_template import JinjaTemplate
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.tools import Tool, ToolCall, ToolChoice, ToolUse
from expertmesh.v1 import generation_pb2 as pb

CALL = '{"name": "now", "arguments": {"zone": "UTC"}}'
USE = ToolUse((Tool("now", parameters={}),))
EOS = 2


@pytest.fixture(scope="module", params=[1, 3], ids=["in words", "with tokens"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory) -> Tokenizer:
    return Tokenizer.open(copy_version(tmp_path_factory.mktemp("tokenizer"), request.param))


def written(tokenizer: Tokenizer, text: str, calls: list[str]) -> list[int]:
    """Ids of an answer that calls, as the model of ``tokenizer`` writes it."""
    call_format = InstTemplate(tokenizer).call_format
    behind = call_format.write(calls).removeprefix(call_format.opening.text)
    mark = call_format.opening
    opening = tokenizer.encode(mark.text) if mark.token_id is None else [mark.token_id]
    return [*tokenizer.encode(text), *opening, *tokenizer.encode(behind)]


def run(
    tokenizer: Tokenizer, ids: Sequence[int], reason: FinishReason, use: ToolUse = USE, stop: tuple[str, ...] = ()
) -> tuple[list[TextDelta], ScriptedEngine]:
    async def read() -> list[TextDelta]:
        prompt = await generator.encode_chat([Message("user", "Hello")], use)
        request = GenerationRequest(tuple(prompt), SamplingParams(), stop)
        return [delta async for delta in generator.generate(await generator.allow_calls(request, use))]

    engine = ScriptedEngine(ids, reason)
    generator = TextGenerator(tokenizer, InstTemplate(tokenizer), engine)
    return asyncio.run(read()), engine


def test_text_and_calls_are_told_apart(tokenizer: Tokenizer):
    deltas, engine = run(tokenizer, [*written(tokenizer, "Wait.", [CALL, CALL]), EOS], FinishReason.STOP)
    assert "".join(delta.text for delta in deltas) == "Wait."
    calls = join_calls(piece for delta in deltas for piece in delta.calls)
    assert [(call.name, call.arguments) for call in calls] == [("now", '{"zone": "UTC"}')] * 2
    assert len({call.id for call in calls}) == 2
    assert [finish_reason(delta) for delta in deltas[-2:]] == [None, "tool_calls"]
    last = encode_delta(deltas[-1], SamplingParams(), tokenizer.token_bytes)
    assert last.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert engine.requests[0].grammar is not None and engine.requests[0].grammar[0] == "tool_calls"


def test_arguments_come_piece_by_piece(tokenizer: Tokenizer):
    deltas, _ = run(tokenizer, [*written(tokenizer, "", [CALL]), EOS], FinishReason.STOP)
    pieces = [piece for delta in deltas for piece in delta.calls]
    assert (pieces[0].name, pieces[0].id is not None) == ("now", True)
    assert len(pieces) > 3
    assert all(piece.id is None and piece.name is None for piece in pieces[1:])


def test_a_plain_answer_stays_one(tokenizer: Tokenizer):
    deltas, _ = run(tokenizer, [*tokenizer.encode("It is noon. <"), EOS], FinishReason.STOP)
    assert "".join(delta.text for delta in deltas) == "It is noon. <"
    assert finish_reason(deltas[-1]) == "stop"


def test_an_answer_cut_in_a_call_ends_with_its_length(tokenizer: Tokenizer):
    ids = written(tokenizer, "", [CALL])
    deltas, _ = run(tokenizer, ids[:-4], FinishReason.LENGTH)
    (call,) = join_calls(piece for delta in deltas for piece in delta.calls)
    assert '{"zone": "UTC"}'.startswith(call.arguments)
    assert finish_reason(deltas[-1]) == "length"


def test_a_stop_string_ends_a_call_too(tokenizer: Tokenizer):
    deltas, _ = run(tokenizer, [*written(tokenizer, "", [CALL]), EOS], FinishReason.STOP, stop=("UTC",))
    (call,) = join_calls(piece for delta in deltas for piece in delta.calls)
    assert call.arguments == '{"zone": "'
    assert finish_reason(deltas[-1]) == "stop"


def test_a_stop_string_that_looks_like_a_mark_stops_text_only(tokenizer: Tokenizer):
    deltas, _ = run(tokenizer, [*written(tokenizer, "Wait.", [CALL]), EOS], FinishReason.STOP, stop=("[TOOL",))
    assert "".join(delta.text for delta in deltas) == "Wait."
    assert finish_reason(deltas[-1]) == "tool_calls"


def test_json_that_is_nested_too_deeply_is_refused(tokenizer: Tokenizer):
    template = JinjaTemplate(tokenizer, HERMES_TOOLS, "FILE")
    generator = TextGenerator(tokenizer, template, ScriptedEngine([EOS], FinishReason.STOP))
    call = ToolCall("1", "now", "[" * 900 + "]" * 900)
    messages = [Message("user", "a"), Message("assistant", "", tool_calls=(call,)), Message("user", "b")]
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        asyncio.run(generator.encode_chat(messages))


def test_without_tools_nothing_is_parsed(tokenizer: Tokenizer):
    for use in (ToolUse(), ToolUse(USE.tools, ToolChoice.NONE)):
        deltas, engine = run(tokenizer, [*written(tokenizer, "Wait.", [CALL]), EOS], FinishReason.STOP, use)
        assert engine.requests[0].grammar is None
        assert CALL in "".join(delta.text for delta in deltas)
        assert finish_reason(deltas[-1]) == "stop"
