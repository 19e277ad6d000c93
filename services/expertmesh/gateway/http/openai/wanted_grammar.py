"""What answers have to look like, in the forms in which OpenAI, vLLM and TGI ask for it. Knows no other field."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.openai.fields import (
    CompletionFields,
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    ResponseFormat,
)
from expertmesh.text.grammar import Grammar, GrammarKind


def json_schema(source: dict[str, Any] | str) -> Grammar:
    """Make a grammar of a JSON schema or its text."""
    return Grammar(GrammarKind.JSON_SCHEMA, source if isinstance(source, str) else json.dumps(source))


# By vLLM's names: those in structured_outputs, and behind guided_ in earlier versions.
_MAKERS: Mapping[str, Callable[[Any], Grammar]] = {
    "json": json_schema,
    "regex": partial(Grammar, GrammarKind.REGEX),
    "choice": Grammar.one_of,
    "grammar": partial(Grammar, GrammarKind.RULES),
    "json_object": lambda _: Grammar(GrammarKind.JSON_OBJECT),
}


def read_grammar(body: CompletionFields) -> Grammar | None:
    """Return the grammar that a request asks for; ParameterError where it asks for two."""
    asked = list(_asked_for(body))
    if len(asked) > 1:
        (first, _), (second, _), *_ = asked
        raise ParameterError(second, f"says what answers look like, as {first} does; one of them would be right")
    return asked[0][1] if asked else None


def _asked_for(body: CompletionFields) -> Iterator[tuple[str, Grammar]]:
    """Name the fields that ask for a grammar, with what they ask for."""
    if grammar := _of_format(body.response_format):
        yield "response_format", grammar
    outputs = body.structured_outputs.model_dump(by_alias=True) if body.structured_outputs else {}
    for name, make in _MAKERS.items():
        if outputs.get(name) not in (None, False):
            yield "structured_outputs", make(outputs[name])
        if (value := getattr(body, f"guided_{name}", None)) is not None:
            yield f"guided_{name}", make(value)


def _of_format(response_format: ResponseFormat | None) -> Grammar | None:
    match response_format:
        case JsonObjectFormat(value=schema):
            return Grammar(GrammarKind.JSON_OBJECT) if schema is None else json_schema(schema)
        case JsonSchemaFormat(json_schema=named):
            return json_schema(named.schema_)
        case RegexFormat(value=source):
            return Grammar(GrammarKind.REGEX, source)
    return None
