"""Conversations with tools in templates of checkpoints: as transformers renders them, or in words."""

import json
import random

import pytest
from chat_files import CHATML, HERMES_TOOLS, INST, MISTRAL_TOOLS, copy_version, write_chatml, write_json
from transformers import AutoTokenizer

from expertmesh.errors import InvalidRequestError
from expertmesh.text.call_format import HERMES, MISTRAL
from expertmesh.text.conversation import Message
from expertmesh.text.jinja_template import JinjaTemplate
from expertmesh.text.template_choice import choose_template
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.tools import Tool, ToolCall

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = (Tool("get_weather", "Tells the weather; 日本語.", SCHEMA), Tool("now", "Tells the time.", {"type": "object"}))
TEMPLATES = {"hermes": (HERMES_TOOLS, HERMES), "mistral": (MISTRAL_TOOLS, MISTRAL)}


@pytest.fixture(scope="module", params=["sentence pieces", "byte-level"])
def directory(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    return write_chatml(directory) if request.param == "sentence pieces" else write_json(directory, request.param)


@pytest.fixture(scope="module")
def tokenizer(directory) -> Tokenizer:
    return Tokenizer.open(directory)


@pytest.fixture(scope="module")
def oracle(directory):
    return AutoTokenizer.from_pretrained(directory)


def theirs(oracle, messages: list[Message], tools: tuple[Tool, ...], source: str, **options) -> list[int]:
    options = {"add_generation_prompt": True, **options}
    functions = [{"type": "function", "function": tool.describe()} for tool in tools]
    conversation = [described(message) for message in messages]
    return oracle.apply_chat_template(conversation, functions or None, chat_template=source, **options)["input_ids"]


def described(message: Message) -> dict:
    fields = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": json.loads(one.arguments)}}
            for one in message.tool_calls
        ]
    return fields


def conversation(rng: random.Random) -> list[Message]:
    messages: list[Message] = []
    for _ in range(rng.randint(0, 2)):
        messages.append(Message("user", rng.choice(("Hello", "what?", "naïve"))))
        if rng.random() < 0.7:
            calls = (
                ToolCall("abcdefgh1", "get_weather", '{"city": "Pâris"}'),
                ToolCall("abcdefgh2", "now", "{}"),
            )[: rng.randint(1, 2)]
            messages.append(Message("assistant", "", tool_calls=calls))
            messages += [Message("tool", "fine <x>", tool_call_id=call.id) for call in calls]
        messages.append(Message("assistant", "So it is."))
    return [*messages, Message("user", "and now?")]


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_equal_those_of_transformers(tokenizer: Tokenizer, oracle, name: str):
    source, call_format = TEMPLATES[name]
    template, rng = JinjaTemplate(tokenizer, source, name), random.Random(0)
    assert template.call_format == call_format
    for _ in range(60):
        messages, tools = conversation(rng), TOOLS[: rng.randint(0, 2)]
        assert template.encode(messages, tools) == theirs(oracle, messages, tools, source), messages


@pytest.mark.parametrize("text", ["Sure", "Sure, ", "two\nlines"])
@pytest.mark.parametrize(
    "source",
    [CHATML, CHATML.replace("message['content']", "message['content'] | trim")],
    ids=["as it is", "trimmed"],
)
def test_the_last_answer_is_continued_as_in_transformers(tokenizer: Tokenizer, oracle, source: str, text: str):
    messages = [Message("user", "Hello"), Message("assistant", text)]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    expected = theirs(oracle, messages, (), source, **options)
    assert JinjaTemplate(tokenizer, source, "FILE").encode(messages, continues=True) == expected


class TestOneTokenizer:
    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls, tmp_path_factory) -> Tokenizer:
        return Tokenizer.open(write_chatml(tmp_path_factory.mktemp("tokenizer")))

    def text(self, tokenizer: Tokenizer, source: str, messages: list[Message], tools=(), **options) -> str:
        return tokenizer.decode(JinjaTemplate(tokenizer, source, "FILE").encode(messages, tools, **options))

    @pytest.mark.parametrize(
        "source",
        [CHATML, HERMES_TOOLS.replace('"name": "', '"function": "'), HERMES_TOOLS.replace("tool | tojson", "''")],
        ids=["no place for tools", "another form of calls", "tools are not shown"],
    )
    def test_otherwise_tools_are_told_in_words(self, tokenizer: Tokenizer, source: str):
        text = self.text(tokenizer, source, [Message("user", "Hello")], TOOLS)
        assert "You may call functions." in text
        assert json.dumps(TOOLS[0].describe(), ensure_ascii=False) in text

    def test_strict_turns_are_made_only_where_they_are_wanted(self, tokenizer: Tokenizer):
        messages = [Message("user", "a"), Message("assistant", ""), Message("user", "b")]
        assert self.text(tokenizer, CHATML, messages).count("user") == 2
        strict = self.text(tokenizer, INST, [Message("system", "s"), *messages])
        assert strict == self.text(tokenizer, INST, [Message("user", "s\n\na\n\nb")])

    def test_ids_of_other_makers_are_cut_to_size_where_a_template_minds(self, tokenizer: Tokenizer):
        call = ToolCall("call_0123456789", "now", "{}")
        messages = [Message("user", "a"), Message("assistant", "", tool_calls=(call,))]
        told = [*messages, Message("tool", "noon", tool_call_id=call.id)]
        assert "noon" in self.text(tokenizer, MISTRAL_TOOLS, told, TOOLS)

    def test_a_template_that_refuses_every_form_is_quoted(self, tokenizer: Tokenizer):
        source = "{% if messages|length > 1 %}{{ raise_exception('only one: ' + messages[1].role) }}{% endif %}"
        messages = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
        with pytest.raises(InvalidRequestError, match="only one: assistant"):
            JinjaTemplate(tokenizer, source, "FILE").encode(messages)

    def test_what_is_not_shown_cannot_be_continued(self, tokenizer: Tokenizer):
        template = JinjaTemplate(tokenizer, "{{ messages[0].content }}", "FILE")
        with pytest.raises(InvalidRequestError, match="does not show the last message"):
            template.encode([Message("user", "a"), Message("assistant", "b")], continues=True)

    def test_nobody_writes_special_tokens(self, tokenizer: Tokenizer):
        name = "<|im_end|>"
        tool = Tool("now", name, {"type": "object", "properties": {name: {"description": name}}})
        call = ToolCall(name, name, json.dumps({name: name}))
        messages = [
            Message("user", "a"),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", name, name, tool_call_id=name),
        ]
        harmless = [
            Message("user", "a"),
            Message("assistant", "", tool_calls=(ToolCall("1", "b", "{}"),)),
            Message("tool", "c", "d", tool_call_id="1"),
        ]
        template = JinjaTemplate(tokenizer, HERMES_TOOLS, "FILE")
        end = tokenizer.control_id(name)
        assert template.encode(messages, [tool]).count(end) == template.encode(harmless, [TOOLS[1]]).count(end)


def test_conversations_with_tools_may_have_a_template_of_their_own(tmp_path):
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": HERMES_TOOLS}]
    write_chatml(tmp_path, chat_template=named)
    tokenizer = Tokenizer.open(tmp_path)
    template = choose_template(tmp_path, tokenizer).template
    plain = JinjaTemplate(tokenizer, CHATML, "FILE")
    with_tools = JinjaTemplate(tokenizer, HERMES_TOOLS, "FILE")
    asked = [Message("user", "Hello")]
    assert template.encode(asked) == plain.encode(asked)
    assert template.encode(asked, TOOLS) == with_tools.encode(asked, TOOLS)


def test_marks_are_control_tokens_where_a_tokenizer_has_them(tmp_path):
    tokenizer = Tokenizer.open(copy_version(tmp_path, 3))
    mark = JinjaTemplate(tokenizer, MISTRAL_TOOLS, "FILE").call_format.opening
    assert (mark.text, mark.token_id) == ("[TOOL_CALLS]", 5)
