"""Asking a gateway from the terminal: what was asked for, and printing the answer while it is produced."""

import sys
from collections.abc import Iterable
from pathlib import Path

from expertmesh.client import JsonSchema, Output, Piece


def read_output(stop: list[str] | None, json_schema: Path | None) -> Output:
    """Gather the flags that say what an answer must look like."""
    schema = JsonSchema(json_schema.read_text(encoding="utf-8")) if json_schema else None
    return Output(stop=stop or (), response_format=schema)


def print_stream(answer: Iterable[Piece], said: list[str] | None = None) -> None:
    """Write the texts of an answer to standard output as they come, then a newline.

    ``said`` gets them too: it has what there was of an answer that failed or was stopped.
    """
    for piece in answer:
        if said is not None:
            said.append(piece.text)
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
