"""Calls in the text of an answer, as it becomes certain. Knows the form of calls, not tokens.

A grammar has seen to it that what stands behind the first mark are calls, name before arguments; see call_grammar.py.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from expertmesh.text.call_format import CallFormat
from expertmesh.text.tools import ToolCall, make_call_id

_HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class CallPiece:
    """What is new in call ``index`` of an answer: ``id`` and ``name`` in its first piece, then parts of its JSON."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


def join_calls(pieces: Iterable[CallPiece]) -> list[ToolCall]:
    """Return the calls that pieces of one answer add up to; the last one may be incomplete."""
    calls: list[ToolCall] = []
    for piece in pieces:
        if piece.id is not None and piece.name is not None:
            calls.append(ToolCall(piece.id, piece.name, piece.arguments))
        else:
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + piece.arguments)
    return calls


class CallParser:
    """Parts an answer into the text before its calls, and the calls.

    Blanks, and what may begin a mark, wait until it is known what follows: those before a call are dropped.
    """

    def __init__(self, call_format: CallFormat, make_id: Callable[[], str] = make_call_id) -> None:
        self._opening = call_format.opening.shown
        self._make_id = make_id
        self._is_in_calls = False
        self._held = ""
        self._json: _ObjectScanner | None = None
        self.num_calls = 0

    def push(self, text: str) -> tuple[str, tuple[CallPiece, ...]]:
        """Take more text; return what is certain to be content, and what is new in calls."""
        self._held += text
        content = "" if self._is_in_calls else self._take_content()
        return content, tuple(self._take_calls()) if self._is_in_calls else ()

    def flush(self) -> str:
        """Return the content held back, at the end of an answer."""
        content, self._held = "" if self._is_in_calls else self._held, ""
        return content

    def _take_content(self) -> str:
        before, mark, behind = self._held.partition(self._opening)
        if mark:
            self._is_in_calls, self._held = True, behind
            return before.rstrip()
        certain = len(self._held[: len(self._held) - self._num_suspicious()].rstrip())
        content, self._held = self._held[:certain], self._held[certain:]
        return content

    def _num_suspicious(self) -> int:
        """Length of the longest end of the held text that is a beginning of the mark."""
        longest = min(len(self._held), len(self._opening) - 1)
        return next((length for length in range(longest, 0, -1) if self._opening.startswith(self._held[-length:])), 0)

    def _take_calls(self) -> list[CallPiece]:
        pieces: list[CallPiece] = []
        while self._held:
            if self._json is None:
                head = _HEAD.search(self._held)
                if head is None:
                    break
                self._json, self._held = _ObjectScanner(), self._held[head.end() :]
                pieces.append(CallPiece(self.num_calls, id=self._make_id(), name=head[1]))
                self.num_calls += 1
            else:
                length = self._json.scan(self._held)
                _add(pieces, CallPiece(self.num_calls - 1, self._held[:length]))
                self._held = self._held[length:]
                if self._json.is_complete:
                    self._json = None
        return pieces


def _add(pieces: list[CallPiece], more: CallPiece) -> None:
    """Append to a call; there is one piece of a call at a time."""
    if pieces and pieces[-1].index == more.index:
        more = replace(pieces.pop(), arguments=more.arguments)
    pieces.append(more)


class _ObjectScanner:
    """Finds the end of a JSON object that comes piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_text = False
        self._is_escaped = False
        self.is_complete = False

    def scan(self, text: str) -> int:
        """Return how many characters of ``text`` belong to the object."""
        for index, character in enumerate(text):
            self._take(character)
            if self.is_complete:
                return index + 1
        return len(text)

    def _take(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._is_in_text:
            self._is_escaped, self._is_in_text = character == "\\", character != '"'
        elif character == '"':
            self._is_in_text = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.is_complete = self._depth == 0
