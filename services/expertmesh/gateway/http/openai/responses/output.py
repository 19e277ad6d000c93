"""The items of an answer, as they grow. Knows which events tell of them, not the response around them."""

from collections.abc import Callable, Iterator, Sequence
from uuid import uuid4

from expertmesh.gateway.http.long_json import mapped
from expertmesh.gateway.http.openai.replies import TokenLogprob
from expertmesh.gateway.http.openai.responses import events
from expertmesh.gateway.http.openai.responses.replies import (
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputText,
)
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice
from expertmesh.text.call_parser import CallPiece

Describe = Callable[[Choice], TokenLogprob]


def make_id(prefix: str) -> str:
    """Return a new id, which says what it is of."""
    return f"{prefix}_{uuid4().hex}"


class _Message:
    """The text of an answer."""

    def __init__(self, index: int, describe: Describe | None) -> None:
        self._index = index
        self._describe = describe
        self._id = make_id("msg")
        self._text = ""
        self._choices: list[Choice] = []

    def open(self) -> Iterator[events.Event]:
        empty = OutputMessage(id=self._id, status="in_progress", content=[])
        yield events.ItemEvent(type="response.output_item.added", output_index=self._index, item=empty)
        yield self._part("response.content_part.added")

    def push(self, text: str, choices: list[Choice]) -> events.Event:
        self._text += text
        self._choices += choices
        logprobs = self._logprobs(choices)
        return events.TextDeltaEvent(output_index=self._index, item_id=self._id, delta=text, logprobs=logprobs)

    def close(self, status: ItemStatus) -> Iterator[events.Event]:
        logprobs = self._logprobs(self._choices)
        yield events.TextDoneEvent(output_index=self._index, item_id=self._id, text=self._text, logprobs=logprobs)
        yield self._part("response.content_part.done")
        yield events.ItemEvent(type="response.output_item.done", output_index=self._index, item=self.describe(status))

    def describe(self, status: ItemStatus) -> OutputMessage:
        return OutputMessage(id=self._id, status=status, content=[self._content()])

    def _part(self, kind: events.PartKind) -> events.Event:
        return events.PartEvent(type=kind, output_index=self._index, item_id=self._id, part=self._content())

    def _content(self) -> OutputText:
        return OutputText(text=self._text, logprobs=self._logprobs([*self._choices]))

    def _logprobs(self, choices: Sequence[Choice]) -> Sequence[TokenLogprob]:
        return mapped(self._describe, choices) if self._describe else []


class _Call:
    """A call of a function."""

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self._index = index
        self._id = make_id("fc")
        self._call_id = call_id
        self._name = name
        self._arguments = ""

    def open(self) -> Iterator[events.Event]:
        yield events.ItemEvent(
            type="response.output_item.added", output_index=self._index, item=self.describe("in_progress")
        )

    def push(self, arguments: str) -> events.Event:
        self._arguments += arguments
        return events.ArgumentsDeltaEvent(output_index=self._index, item_id=self._id, delta=arguments)

    def close(self, status: ItemStatus) -> Iterator[events.Event]:
        yield events.ArgumentsDoneEvent(
            output_index=self._index, item_id=self._id, name=self._name, arguments=self._arguments
        )
        yield events.ItemEvent(type="response.output_item.done", output_index=self._index, item=self.describe(status))

    def describe(self, status: ItemStatus) -> OutputCall:
        return OutputCall(id=self._id, call_id=self._call_id, name=self._name, arguments=self._arguments, status=status)


class Output:
    """The items of one answer: its text, then its calls. ``describe`` says how probable a choice was, where asked for.

    Tokens without text of their own, such as half a character, are told of with the next text.
    """

    def __init__(self, describe: Describe | None = None) -> None:
        self._describe = describe
        self._pending: list[Choice] = []
        self._done: list[OutputItem] = []
        self._last: _Message | _Call | None = None

    def push(self, delta: TextDelta) -> Iterator[events.Event]:
        """Take the next token of the answer."""
        if self._describe:
            self._pending.append(delta.token)
        if delta.text:
            yield from self._push_text(delta.text)
        for piece in delta.calls:
            yield from self._push_call(piece)

    def close(self, status: ItemStatus) -> Iterator[events.Event]:
        """End the last item with ``status``; an answer that is nothing else is a message without text."""
        if self._last is None:
            yield from self._open(_Message(0, self._describe))
        yield from self._close(status)

    def items(self) -> list[OutputItem]:
        """Return what there is so far, with an item in the middle of which the answer stops."""
        return [*self._done, *([self._last.describe("incomplete")] if self._last else [])]

    def _push_text(self, text: str) -> Iterator[events.Event]:
        if not isinstance(self._last, _Message):
            yield from self._open(_Message(len(self._done), self._describe))
        assert isinstance(self._last, _Message)
        choices, self._pending = self._pending, []
        yield self._last.push(text, choices)

    def _push_call(self, piece: CallPiece) -> Iterator[events.Event]:
        if piece.id is not None and piece.name is not None:
            yield from self._close("completed")
            yield from self._open(_Call(len(self._done), piece.id, piece.name))
        assert isinstance(self._last, _Call)
        if piece.arguments:
            yield self._last.push(piece.arguments)

    def _open(self, item: _Message | _Call) -> Iterator[events.Event]:
        self._last = item
        yield from item.open()

    def _close(self, status: ItemStatus) -> Iterator[events.Event]:
        if self._last is not None:
            yield from self._last.close(status)
            self._done.append(self._last.describe(status))
            self._last = None
