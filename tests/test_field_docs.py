"""The table of fields in docs/api.md is what the code does with them."""

from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from expertmesh.gateway.http.field_rules import refused
from expertmesh.gateway.http.openai import conversation, fields, requests
from expertmesh.gateway.http.openai.responses import items
from expertmesh.gateway.http.openai.responses.requests import ResponseRequest, ResponseTool, TextSettings
from expertmesh.gateway.http.schema import Only, RequestModel
from expertmesh.gateway.http.tgi import models

DOCUMENT = Path(__file__).parents[1] / "docs" / "api.md"
HEADER = "| in | fields | what becomes of them |\n| --- | --- | --- |\n"
TABLES: dict[str, tuple[type[RequestModel], type[RequestModel] | None]] = {
    "both": (fields.CompletionFields, None),
    "chat": (requests.ChatCompletionRequest, fields.CompletionFields),
    "text": (requests.CompletionRequest, fields.CompletionFields),
    "`stream_options`": (fields.StreamOptions, None),
    "`structured_outputs`": (fields.StructuredOutputs, None),
    "each of `messages`": (conversation.ChatMessage, None),
    "each part of its `content`": (conversation.TextPart, None),
    "each of its `tool_calls`": (conversation.MessageToolCall, None),
    "`function` in these": (conversation.CalledFunction, None),
    "`/v1/responses`": (ResponseRequest, None),
    "its `text`": (TextSettings, None),
    "each of its `tools`": (ResponseTool, None),
    "messages of its `input`": (items.MessageItem, None),
    "calls of its `input`": (items.CallItem, None),
    "results of its `input`": (items.ResultItem, None),
    "thoughts of its `input`": (items.ReasoningItem, None),
    "each part of these": (items.ContentPart, None),
    "TGI's `parameters`": (models.Parameters, None),
}


def names_of(model: type[RequestModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items() if not only(field)]


def only(field: FieldInfo) -> list[Only]:
    return [one for one in field.metadata if isinstance(one, Only)]


def row(where: str, names: list[str], effect: str) -> str:
    return f"| {where} | {', '.join(f'`{name}`' for name in names)} | {effect} |\n"


def rows() -> Iterator[str]:
    for where, (model, told) in TABLES.items():
        names, rules = (names_of(told), told.rules) if told else ([], ())
        yield row(where, [name for name in names_of(model) if name not in names], "honoured")
        for name, field in model.model_fields.items():
            for _, *allowed in (one.values for one in only(field)):
                yield row(where, [name], refused("", name, unless=tuple(allowed)).effect.removesuffix(": "))
        yield from (row(where, list(rule.names), rule.effect) for rule in model.rules if rule not in rules)


def test_the_document_has_every_field():
    assert HEADER + "".join(rows()) in DOCUMENT.read_text()


def test_no_field_has_two_rules():
    for model, _ in TABLES.values():
        names = [name for rule in model.rules for name in rule.names]
        assert len(names) == len(set(names))
