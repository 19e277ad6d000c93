"""Replies of any length as JSON, made while it is sent. Knows lists and models, not what is in them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar, overload

from pydantic import SkipValidation
from pydantic_core import to_json

from expertmesh.gateway.http.schema import ReplyModel

T = TypeVar("T")

# What is made at a time: the event loop does nothing else meanwhile.
CHUNK_BYTES = 32 * 2**10
NUM_MADE = 16
NUM_WRITTEN = 1024

# A list in a reply that is sent as it is; ``Mapped`` makes its elements one by one.
Long = Annotated[Sequence[T], SkipValidation]


class Mapped(Sequence[T]):
    """What ``make`` makes of each element of ``source``, made anew by whoever looks: never all of it at once."""

    def __init__(self, make: Callable[[Any], T], source: Sequence[Any]) -> None:
        self._make = make
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._make(one) for one in self._source[index]]
        return self._make(self._source[index])


def mapped(make: Callable[[Any], T], source: Sequence[Any]) -> Sequence[T]:
    """Make one element at once, as a list, and of more each when it is sent."""
    return [make(source[0])] if len(source) == 1 else Mapped(make, source)


class LongReply(ReplyModel):
    """A reply, or a part of one, whose lists may be long."""


def json_pieces(reply: LongReply) -> Iterator[str]:
    """Write a reply piece by piece, its lists and what else may be long behind its other fields."""
    long = {name: value for name, value in reply if isinstance(value, LongReply | list | Mapped)}
    head = reply.model_dump_json(exclude=set(long))
    yield head[:-1]
    separator = "," if len(head) > len("{}") else ""
    for name, value in long.items():
        yield f'{separator}"{name}":'
        yield from json_pieces(value) if isinstance(value, LongReply) else _list_pieces(value)
        separator = ","
    yield "}"


def _list_pieces(values: Sequence[Any]) -> Iterator[str]:
    step = NUM_MADE if isinstance(values, Mapped) else NUM_WRITTEN
    yield "["
    for start in range(0, len(values), step):
        if start:
            yield ","
        yield from _element_pieces(values[start : start + step])
    yield "]"


def _element_pieces(values: Sequence[Any]) -> Iterator[str]:
    if not isinstance(values[0], LongReply):
        yield to_json(values, inf_nan_mode="null").decode()[1:-1]
        return
    for position, value in enumerate(values):
        if position:
            yield ","
        yield from json_pieces(value)


def chunks(pieces: Iterable[str]) -> Iterator[bytes]:
    """Put pieces together to chunks of ``CHUNK_BYTES`` or a little more; the last one may be shorter."""
    gathered: list[str] = []
    num_characters = 0
    for piece in pieces:
        gathered.append(piece)
        num_characters += len(piece)
        if num_characters >= CHUNK_BYTES:
            yield "".join(gathered).encode()
            gathered, num_characters = [], 0
    if gathered:
        yield "".join(gathered).encode()
