"""Functions, calls and results in words, for models whose template has no place for them. Knows no template."""

import json
from collections.abc import Sequence
from typing import Any

from expertmesh.text.call_format import HERMES
from expertmesh.text.conversation import Message
from expertmesh.text.tools import Tool, ToolCall, parse_json

CALL_FORMAT = HERMES
_EXAMPLE = CALL_FORMAT.write(['{"name": "NAME", "arguments": {...}}'])
_INTRODUCTION = "You may call functions. Each line describes one in JSON, its parameters by a JSON schema:"
_RULES = f"""To call one, write

{_EXAMPLE}

with arguments that fit its parameters. Several calls may follow each other; write nothing behind them. What a function
returns is told to you between <tool_response> and </tool_response>. Where no function helps, answer in plain words."""


def tell_in_words(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Return a conversation of plain messages that says the same."""
    told = [_tell(message) for message in messages]
    if not tools:
        return told
    text = "\n\n".join([_INTRODUCTION, "\n".join(_dump(tool.describe()) for tool in tools), _RULES])
    if told and told[0].role == "system":
        return [Message("system", f"{told[0].content}\n\n{text}"), *told[1:]]
    return [Message("system", text), *told]


def describe_call(call: ToolCall) -> dict[str, Any]:
    """Return a call as models write it: arguments that are no JSON stay a text, none are an empty object."""
    return {"name": call.name, "arguments": parse_json(call.arguments or "{}")}


def _tell(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls:
        calls = CALL_FORMAT.write([_dump(describe_call(call)) for call in message.tool_calls])
        return Message("assistant", f"{message.content}\n{calls}" if message.content else calls)
    return message


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
