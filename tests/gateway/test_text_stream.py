import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from expertmesh.engine.door import TokenDelta
from expertmesh.engine.request import FinishReason
from expertmesh.gateway.text_stream import TextDelta, TextStream, stream_text
from expertmesh.model.choice import Choice
from expertmesh.text.detokenizer import Detokenizer, NamedControls
from expertmesh.text.tokenizer import Tokenizer

TEXT = "one two three four"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory) -> Tokenizer:
    return Tokenizer.open(tokenizer_directory)


class Tokens:
    """An engine that answers with ``TEXT``; ``left`` is how its client left, None when it stayed to the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = tokenizer.encode(TEXT)
        self.left: FinishReason | str | None = None

    @property
    def num_tokens(self) -> int:
        return len(self._ids)

    async def generate(self) -> AsyncGenerator[TokenDelta, FinishReason | None]:
        try:
            for number, token_id in enumerate(self._ids, 1):
                reason = FinishReason.LENGTH if number == self.num_tokens else None
                self.left = yield TokenDelta(Choice(token_id), reason)
                if self.left is not None:
                    return
        except GeneratorExit:
            self.left = "left early"
            raise


async def read(tokenizer: Tokenizer, tokens: Tokens, stops: Sequence[str], **wanted: Any) -> list[TextDelta]:
    text = TextStream(Detokenizer(tokenizer), stops, **wanted)
    return [delta async for delta in stream_text(tokens.generate(), text, index=3, num_prompt_tokens=5)]


def test_an_answer_without_stop_strings_is_its_whole_text(tokenizer):
    tokens = Tokens(tokenizer)
    deltas = asyncio.run(read(tokenizer, tokens, []))
    assert "".join(delta.text for delta in deltas) == TEXT
    assert [delta.num_output_tokens for delta in deltas] == [*range(1, tokens.num_tokens + 1)]
    assert {(delta.index, delta.num_prompt_tokens, delta.stop) for delta in deltas} == {(3, 5, None)}
    assert [delta.finish_reason for delta in deltas] == [None] * (tokens.num_tokens - 1) + [FinishReason.LENGTH]
    assert tokens.left is None


def test_a_stop_string_ends_text_and_tokens(tokenizer):
    tokens = Tokens(tokenizer)
    deltas = asyncio.run(read(tokenizer, tokens, ["three", "four"]))
    assert "".join(delta.text for delta in deltas) == "one two "
    assert (deltas[-1].finish_reason, deltas[-1].stop) == (FinishReason.STOP_SEQUENCE, "three")
    assert len(deltas) < tokens.num_tokens
    assert tokens.left is FinishReason.STOP_SEQUENCE


def test_who_leaves_early_ends_the_tokens(tokenizer):
    async def leave() -> None:
        deltas = stream_text(tokens.generate(), TextStream(Detokenizer(tokenizer), []), 0, 1)
        await anext(deltas)
        await deltas.aclose()

    tokens = Tokens(tokenizer)
    asyncio.run(leave())
    assert tokens.left == "left early"


def test_a_stop_string_before_the_least_number_of_tokens_ends_nothing(tokenizer):
    num_before = len(tokenizer.encode("one two three"))
    for min_tokens, text in ((num_before, "one two "), (num_before + 1, TEXT)):
        deltas = asyncio.run(read(tokenizer, Tokens(tokenizer), ["three"], min_tokens=min_tokens))
        assert "".join(delta.text for delta in deltas) == text
        assert len(deltas) >= min_tokens


def test_a_stop_string_may_be_part_of_the_text(tokenizer):
    deltas = asyncio.run(read(tokenizer, Tokens(tokenizer), ["three"], includes_stop=True))
    assert "".join(delta.text for delta in deltas) == "one two three"


@pytest.mark.parametrize(("includes_stop", "text"), [(False, "one"), (True, "one</s>")])
def test_a_token_that_ends_the_text_is_part_of_it_only_where_that_is_wanted(tokenizer, includes_stop, text):
    stream = TextStream(Detokenizer(NamedControls(tokenizer)), [], includes_stop=includes_stop)
    pieces = [stream.push(TokenDelta(Choice(token_id), None))[0] for token_id in tokenizer.encode("one")]
    assert "".join([*pieces, stream.push(TokenDelta(Choice(2), FinishReason.STOP))[0]]) == text
