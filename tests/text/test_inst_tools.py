"""Conversations with tools in [INST] templates: as mistral-common writes them, or in words."""

import json
import random

import pytest
from chat_files import copy_version
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall
from mistral_common.protocol.instruct.tool_calls import Tool as MistralTool
from mistral_common.protocol.instruct.tool_calls import ToolCall as MistralCall
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from expertmesh.text.conversation import Message
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.tools import Tool, ToolCall

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "naïve [INST]"}}}
TOOLS = (Tool("get_weather", "Tells the weather; 日本語.", SCHEMA), Tool("now"), Tool("b-2", parameters={}))
ARGUMENTS = ('{"city": "Paris"}', "{}", "", '{"a":[1,2.50,null],  "b":"é\\u00e9"}', "no json", "[/INST] </s>")
RESULTS = ("", "sunny", '{"degrees":  21.5}', "[TOOL_RESULTS]", "3", "two\nlines")


def theirs(message: Message) -> SystemMessage | UserMessage | AssistantMessage | ToolMessage:
    match message.role:
        case "system":
            return SystemMessage(content=message.content)
        case "user":
            return UserMessage(content=message.content)
        case "tool":
            return ToolMessage(content=message.content, tool_call_id=message.tool_call_id)
    calls = [
        MistralCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
        for call in message.tool_calls
    ]
    return AssistantMessage(content=message.content or None, tool_calls=calls or None)


def mistral_ids(oracle: MistralTokenizer, messages: list[Message], tools: tuple[Tool, ...]) -> list[int]:
    functions = [Function.from_openai(tool.describe()) for tool in tools]
    request = ChatCompletionRequest(
        messages=[theirs(message) for message in messages],
        tools=[MistralTool(function=function) for function in functions] or None,
    )
    return oracle.encode_chat_completion(request).tokens


def conversation(rng: random.Random) -> list[Message]:
    messages = [Message("system", "Be kind.")] * rng.choice((0, 1))
    for _ in range(rng.randint(1, 3)):
        messages.append(Message("user", rng.choice(("Hello", "what? ", "naïve\n"))))
        for _ in range(rng.choice((0, 1, 1, 2))):
            messages += use(rng)
        messages.append(Message("assistant", rng.choice(("Fine.", "  so  "))))
    return messages[:-1] if messages[-2].role != "system" else [*messages, Message("user", "and?")]


def use(rng: random.Random) -> list[Message]:
    """Calls, and what came of each."""
    calls = [
        ToolCall("".join(rng.choices("abcXYZ019", k=9)), rng.choice(TOOLS).name, rng.choice(ARGUMENTS))
        for _ in range(rng.choice((1, 1, 2)))
    ]
    results = [Message("tool", rng.choice(RESULTS), tool_call_id=call.id) for call in calls]
    return [Message("assistant", "", tool_calls=tuple(calls)), *results]


class TestWithTokens:
    @pytest.fixture(scope="class")
    @classmethod
    def template(cls, tmp_path_factory) -> InstTemplate:
        return InstTemplate(Tokenizer.open(copy_version(tmp_path_factory.mktemp("tokenizer"), 3)))

    @pytest.fixture(scope="class")
    @classmethod
    def oracle(cls) -> MistralTokenizer:
        return MistralTokenizer.v3()

    def test_ids_equal_those_of_mistral_common(self, template: InstTemplate, oracle: MistralTokenizer):
        rng = random.Random(0)
        for _ in range(300):
            messages, tools = conversation(rng), TOOLS[: rng.randint(0, 3)]
            assert template.encode(messages, tools) == mistral_ids(oracle, messages, tools), messages

    @pytest.mark.parametrize("text", ["Sure", "Sure, ", " two  spaces  ", "naïve\n"])
    def test_an_answer_is_continued_as_in_mistral_common(self, template, oracle, text: str):
        messages = [Message("user", "Hello"), Message("assistant", text)]
        prefixed = [UserMessage(content="Hello"), AssistantMessage(content=text, prefix=True)]
        expected = oracle.encode_chat_completion(ChatCompletionRequest(messages=prefixed)).tokens
        assert template.encode(messages, continues=True) == expected

    def test_ids_of_other_makers_are_cut_to_size_alike_in_calls_and_results(self, template: InstTemplate):
        def ids(call_id: str) -> list[int]:
            call = Message("assistant", "", tool_calls=(ToolCall(call_id, "now", "{}"),))
            return template.encode([Message("user", "a"), call, Message("tool", "b", tool_call_id=call_id)])

        text = template._tokenizer.decode(ids("call_12345678901234567890"))
        written = text.split('"id": "')[1][:9]
        assert written.isalnum()
        assert ids(written) == ids("call_12345678901234567890")

    def test_text_before_calls_is_kept(self, template: InstTemplate):
        call = ToolCall("abcdefghi", "now", "{}")
        both = Message("assistant", "Wait.", tool_calls=(call,))
        asked, told = Message("user", "a"), Message("tool", "b", tool_call_id=call.id)
        silent = template.encode([asked, Message("assistant", "", tool_calls=(call,)), told])
        spoken = template.encode([asked, both, told])
        start = len(template.encode([asked]))
        assert spoken == [*silent[:start], *template._tokenizer.encode("Wait."), *silent[start:]]


class TestInWords:
    @pytest.fixture(scope="class")
    @classmethod
    def template(cls, tmp_path_factory) -> InstTemplate:
        return InstTemplate(Tokenizer.open(copy_version(tmp_path_factory.mktemp("tokenizer"), 1)))

    def test_a_model_is_told_of_tools_calls_and_results(self, template: InstTemplate):
        calls = (ToolCall("1", "now", ""), ToolCall("2", "get_weather", '{"city": "Paris"}'))
        messages = [
            Message("system", "Be kind."),
            Message("user", "Hello"),
            Message("assistant", "Wait.", tool_calls=calls),
            Message("tool", "noon", tool_call_id="1"),
            Message("tool", "sunny", tool_call_id="2"),
        ]
        text = template._tokenizer.decode(template.encode(messages, TOOLS))
        opening, asked, rest = text.partition("\n\nHello [/INST]")
        assert opening.startswith("[INST] Be kind.\n\nYou may call functions.")
        assert all(json.dumps(tool.describe(), ensure_ascii=False) in opening for tool in TOOLS)
        assert rest == (
            ' Wait.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
            " [INST] <tool_response>\nnoon\n</tool_response>\n\n<tool_response>\nsunny\n</tool_response> [/INST]"
        )

    def test_without_tools_nothing_is_told(self, template: InstTemplate):
        assert "function" not in template._tokenizer.decode(template.encode([Message("user", "Hello")]))


@pytest.mark.parametrize("version", [1, 3])
def test_empty_answers_vanish(version: int, tmp_path):
    template = InstTemplate(Tokenizer.open(copy_version(tmp_path, version)))
    merged = template.encode([Message("user", "a\n\nb")])
    assert template.encode([Message("user", "a"), Message("assistant", ""), Message("user", "b")]) == merged
