"""Which field a request got wrong, in words. Knows pydantic's errors, not HTTP."""

from collections.abc import Sequence
from reprlib import Repr
from typing import Any

from fastapi.exceptions import RequestValidationError

from expertmesh.errors import shortened

MAX_SHOWN = 80
MAX_PATH = 200
_TYPE_NAMES = ("str", "int", "float", "bool")


def describe_validation(error: RequestValidationError) -> tuple[str | None, str]:
    """Return the field, such as ``messages[0].content``, and what is wrong with it.

    Of several errors it is the one deepest in the request: the shallow ones are those of other variants of a union.
    """
    details: dict[str, Any] = max(error.errors(), key=lambda one: len(one["loc"]))
    if details["type"] == "json_invalid":
        return None, f"the body is not valid JSON at character {details['loc'][-1]}: {details['ctx']['error']}"
    if isinstance(error.body, bytes):
        return None, "the body must be JSON, sent with content-type: application/json"
    param = field_path(details["loc"]) or None
    return param, f"{param or 'the body'}: {_words(details)}"


def field_path(location: Sequence[str | int]) -> str:
    """Write pydantic's location of an error as a path, without ``body`` and the variants of unions."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _is_field(part):
            path += f".{part}" if path else part
    return path[:MAX_PATH]


def _is_field(part: str) -> bool:
    return part not in _TYPE_NAMES and not any(mark in part for mark in "[]()<>")


def _words(details: dict[str, Any]) -> str:
    match details["type"]:
        case "too_long":
            return f"has {details['ctx']['actual_length']} elements; at most {details['ctx']['max_length']} are taken"
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not supported"
        case "unsupported":
            return str(details["msg"])
    return f"{details['msg']}, not {_show(details['input'])}"


def _show(value: Any) -> str:
    """Write a value, of which no more is looked at than is shown."""
    short = Repr()
    short.maxstring = short.maxother = short.maxlong = MAX_SHOWN
    return shortened(short.repr(value), MAX_SHOWN)
