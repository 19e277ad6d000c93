"""Functions that a model may call, and calls of them. Knows names and schemas, not how a model writes them."""

import json
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from expertmesh.errors import InvalidRequestError

MAX_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# Mistral's templates take no other ids than these.
CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_ID_CHARACTERS = string.ascii_letters + string.digits


class ToolChoice(Enum):
    """Whether an answer has calls in it."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True)
class Tool:
    """A function; ``parameters`` is the JSON schema of its arguments, an object, and None where it takes none.

    What of the schema grammars cannot express is passed over, unless ``is_strict``: then it is an error.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    is_strict: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the function as APIs and templates describe it."""
        return {"name": self.name, **self._described("description"), **self._described("parameters")}

    def _described(self, field: str) -> dict[str, Any]:
        value = getattr(self, field)
        return {} if value is None else {field: value}


@dataclass(frozen=True)
class ToolUse:
    """What an answer may call: ``tools``, or the one that is ``named``; several of them where ``is_parallel``."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice.AUTO
    named: str | None = None
    is_parallel: bool = True

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that a model is told about: none of them where it is to call none."""
        return () if self.choice is ToolChoice.NONE else self.tools

    def check(self) -> None:
        """Raise InvalidRequestError that names the first tool, or choice, that cannot be."""
        if len(self.tools) > MAX_TOOLS:
            raise InvalidRequestError(f"tools has {len(self.tools)} functions; at most {MAX_TOOLS} are taken", "tools")
        names: set[str] = set()
        for index, tool in enumerate(self.tools):
            _check_tool(tool, index, names)
            names.add(tool.name)
        if self.named is not None and self.named not in names:
            raise _wrong("tool_choice.function.name", f"is {self.named!r}, which is not among tools")
        if not names and self.choice is ToolChoice.REQUIRED:
            raise _wrong("tool_choice", "is required, but there are no tools")


@dataclass(frozen=True)
class ToolCall:
    """A call that a model has made; ``arguments`` are JSON."""

    id: str
    name: str
    arguments: str


def make_call_id() -> str:
    """Return an id that every template takes."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))


def parse_json(text: str) -> Any:
    """Return what a text says as JSON, or the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_tool(tool: Tool, index: int, names: set[str]) -> None:
    path = f"tools[{index}].function"
    if not NAME.fullmatch(tool.name):
        raise _wrong(f"{path}.name", f"is {tool.name[:80]!r}; it must be 1 to 64 of a-z, A-Z, 0-9, _ and -")
    if tool.name in names:
        raise _wrong(f"{path}.name", f"is {tool.name!r}, as that of another tool is; each must be another one")
    if tool.parameters is not None and tool.parameters.get("type", "object") != "object":
        kind = tool.parameters["type"]
        raise _wrong(f"{path}.parameters", f"is a schema of type {kind!r}; arguments are an object")


def _wrong(param: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {message}", param)
