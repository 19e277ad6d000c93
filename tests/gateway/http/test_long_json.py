import json
from collections.abc import Sequence

import pytest
from pydantic import Field

from expertmesh.gateway.http.long_json import CHUNK_BYTES, Long, LongReply, Mapped, chunks, json_pieces, mapped
from expertmesh.gateway.http.schema import ReplyModel, absent_when_none


class Token(ReplyModel):
    text: str
    logprob: float | None = None


class Part(LongReply):
    tokens: Long[Token]
    ids: Long[int] | None = absent_when_none("Only where asked for.")


class Whole(LongReply):
    name: str
    parts: Long[Part] = Field(default=[])
    first: Part | None = None
    notes: dict[str, list[int]] = {}


def part(num_tokens: int, ids: Sequence[int] | None = None) -> Part:
    return Part(tokens=[Token(text=f"tö{number}", logprob=-0.1) for number in range(num_tokens)], ids=ids)


@pytest.mark.parametrize(
    "reply",
    [
        Whole(name="empty"),
        Whole(name='quo"ted', first=part(0), parts=[part(1, [1])]),
        Whole(name="ö", first=part(17), parts=[part(16), part(33, list(range(40)))], notes={"a": [1]}),
        part(2),
        Part(tokens=[Token(text="", logprob=float("-inf"))]),
    ],
    ids=str,
)
def test_pieces_are_what_pydantic_writes(reply: LongReply):
    assert json.loads("".join(json_pieces(reply))) == json.loads(reply.model_dump_json())


@pytest.mark.parametrize("num_parts", [0, 1, 2, 40])
def test_elements_that_are_made_while_they_are_sent_are_the_same(num_parts: int):
    parts = [part(number) for number in range(num_parts)]
    made = Whole(name="made", parts=mapped(lambda number: parts[number], range(num_parts)))
    assert "".join(json_pieces(made)) == "".join(json_pieces(Whole(name="made", parts=parts)))


def test_nothing_is_made_before_its_turn():
    made = []
    pieces = json_pieces(Whole(name="lazy", parts=Mapped(lambda number: made.append(number) or part(1), range(100))))
    next(pieces)
    assert made == []
    while not made:
        next(pieces)
    assert len(made) < 100


def test_a_mapped_list_is_a_sequence():
    squares = Mapped(lambda number: number**2, range(4))
    assert (list(squares), len(squares), squares[-1], squares[1:3]) == ([0, 1, 4, 9], 4, 9, [1, 4])


def test_chunks_are_whole_text_in_parts_of_bounded_size():
    pieces = [f"{number}é," for number in range(40_000)]
    sent = list(chunks(pieces))
    assert b"".join(sent).decode() == "".join(pieces)
    assert len(sent) > 2
    assert all(CHUNK_BYTES <= len(chunk) < 2 * CHUNK_BYTES for chunk in sent[:-1])
    assert list(chunks([])) == []
