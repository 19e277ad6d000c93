"""The grammar of answers with calls: text that is free until a call begins, then calls valid under their schemas.

Knows the language that llguidance reads, no tokenizer.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from expertmesh.text.call_format import CallFormat, Mark
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tools import Tool, ToolChoice, ToolUse

# Writes a schema with our options; of a lenient one, what cannot be expressed is passed over.
WriteSchema = Callable[[Mapping[str, Any], bool], str]
# Writes a whole grammar as the right side of a rule.
WriteGrammar = Callable[[Grammar], str]
# A blank, or a new line with its indent, as models write JSON; those that lose the thread write as many as they may.
GAP = r"(?: |\n[ \t]{0,20})"
BLANKS = f"{GAP}?"
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
# Keys of a schema by which its properties may have other names than those under ``properties``.
_MORE_PROPERTIES = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}


def make_call_grammar(use: ToolUse, call_format: CallFormat, content: Grammar | None = None) -> Grammar:
    """Make the grammar of an answer that may call functions, and must where the choice says so.

    ``content`` is what an answer without calls must look like, any text where it is None.
    """
    source = {
        "format": asdict(call_format),
        "tools": [[tool.name, tool.is_strict, _arguments(tool)] for tool in use.tools if _is_allowed(tool, use)],
        "may_repeat": use.is_parallel and use.named is None,
        "may_answer": use.choice is ToolChoice.AUTO,
        "content": content and [content.kind.value, content.source],
    }
    return Grammar(GrammarKind.TOOL_CALLS, json.dumps(source))


def argument_schemas(source: str) -> list[tuple[Mapping[str, Any], bool]]:
    """Return the schema of each function of a grammar, and whether it is a lenient one."""
    return [(schema, not is_strict) for _, is_strict, schema in json.loads(source)["tools"]]


def write_call_grammar(source: str, write_schema: WriteSchema, write_content: WriteGrammar) -> str:
    """Write the rules of a grammar, from ``start`` on."""
    grammar = json.loads(source)
    opening = _mark(grammar["format"]["opening"])
    closing = grammar["format"]["closing"] and _mark(grammar["format"]["closing"])
    rules = [
        f"start: {' | '.join(_answers(opening, grammar))}",
        f"calls: {_calls(closing, grammar['may_repeat'])}",
        f"BLANKS: /{BLANKS}/",
        f"next: BLANKS {_write(opening)}",
        *([f"closing: BLANKS {_write(closing)}"] if closing else []),
        *_content(opening, grammar["content"], write_content),
        f"call: {' | '.join(f'call_{index}' for index in range(len(grammar['tools'])))}",
        *_functions(grammar["tools"], write_schema),
    ]
    return "\n".join(rules)


def _is_allowed(tool: Tool, use: ToolUse) -> bool:
    return use.named in (None, tool.name)


def _arguments(tool: Tool) -> Mapping[str, Any]:
    """Return the schema of a function's arguments. It takes those that are named, unless something else is said."""
    if tool.parameters is None:
        return NO_ARGUMENTS
    is_closed = "properties" in tool.parameters and not tool.parameters.keys() & _MORE_PROPERTIES
    return {"type": "object", **tool.parameters, **({"additionalProperties": False} if is_closed else {})}


def _answers(opening: Mark, grammar: Mapping[str, Any]) -> Sequence[str]:
    """Return what an answer may be; only free text can have calls behind it."""
    if not grammar["may_answer"]:
        return (f"{_write(opening)} calls",)
    return ("text", "opening calls") if grammar["content"] is None else ("content", f"{_write(opening)} calls")


def _calls(closing: Mark | None, may_repeat: bool) -> str:
    """Write what stands behind the first mark."""
    if closing is None:
        more = ' (BLANKS "," call)*' if may_repeat else ""
        return f'BLANKS "[" call{more} BLANKS "]"'
    return f"call closing{' (next call closing)*' if may_repeat else ''} BLANKS"


def _content(opening: Mark, content: tuple[str, str] | None, write_content: WriteGrammar) -> list[str]:
    if content is not None:
        kind, source = content
        return [f"content: {write_content(Grammar(GrammarKind(kind), source))}"]
    if opening.token_id is not None:
        return ["TEXT: /(?s:.*)/", "text: TEXT", f"opening: TEXT {_write(opening)}"]
    # Free text ends where a mark that is text first comes up.
    return ["TEXT: /(?s:.*)/", "text: TEXT", f"opening[lazy]: TEXT {_write(opening)}"]


def _write(mark: Mark) -> str:
    return json.dumps(mark.text) if mark.token_id is None else f"<[{mark.token_id}]>"


def _functions(tools: Sequence[tuple[str, bool, Any]], write_schema: WriteSchema) -> list[str]:
    rules = []
    for index, (name, is_strict, schema) in enumerate(tools):
        head = rf'{BLANKS}\{{{BLANKS}"name": ?"{re.escape(name)}",{BLANKS}"arguments": ?'
        rules.append(f"call_{index}: /{head}/ arguments_{index} /{BLANKS}\\}}/")
        rules.append(f"arguments_{index}: %json {write_schema(schema, not is_strict)}")
    return rules


def _mark(fields: Mapping[str, Any]) -> Mark:
    return Mark(**fields)
