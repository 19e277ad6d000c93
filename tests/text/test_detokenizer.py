import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from expertmesh.errors import InvalidRequestError
from expertmesh.text.detokenizer import Detokenizer, NamedControls
from expertmesh.text.tokenizer import Tokenizer

FIRST_BYTE_ID = 3
BYTES = range(FIRST_BYTE_ID, FIRST_BYTE_ID + 256)
# The bytes of the euro sign and of an emoji: sequences of them are often whole, cut or wrong characters.
TELLING_BYTES = [FIRST_BYTE_ID + byte for byte in "€🙂é".encode()]
TEXTS = (
    "Hello world",
    " leading space",
    "日本語と🙂と👩‍👩‍👧‍👦",
    "\n\n\tx",
    "</s>",
    "\u2581",
    "\x00\x07",
    "naïve 𝔘 \U0010ffff",
)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory) -> Tokenizer:
    return Tokenizer.open(tokenizer_directory)


@pytest.fixture(scope="module")
def oracle(tokenizer_directory) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(tokenizer_directory / "tokenizer.model"))


class Texts:
    """A tokenizer whose ids stand for ``texts``."""

    def __init__(self, texts: list[bytes]) -> None:
        self._texts = texts

    def is_control(self, token_id: int) -> bool:
        return False

    def drops_space(self, token_id: int) -> bool:
        return False

    def token_bytes(self, token_id: int) -> bytes:
        return self._texts[token_id]


def stream(tokenizer: Tokenizer, ids: list[int], rng: random.Random) -> str:
    """Push ids in random portions."""
    detokenizer = Detokenizer(tokenizer)
    text = ""
    while ids:
        cut = rng.randint(1, 3)
        text += detokenizer.push(ids[:cut])
        ids = ids[cut:]
    return text + detokenizer.flush()


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_the_whole_text(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    # U+2581 is how SentencePiece writes a space: it comes back as one.
    assert stream(tokenizer, ids, random.Random(0)) == text.replace("\u2581", " ")


ANY_ID = st.integers(0, 31999)
IDS = st.lists(
    st.one_of(st.sampled_from(TELLING_BYTES), st.sampled_from(BYTES), st.sampled_from([0, 1, 2, 28705]), ANY_ID),
    max_size=24,
)


@given(ids=IDS, seed=st.integers(0, 100))
def test_any_ids_stream_to_what_sentence_piece_makes_of_them(tokenizer: Tokenizer, oracle, ids: list[int], seed: int):
    assert stream(tokenizer, ids, random.Random(seed)) == tokenizer.decode(ids) == oracle.decode(ids)


@given(cuts=st.lists(st.integers(0, 40), max_size=8))
def test_tokens_may_hold_parts_of_characters(cuts: list[int]):
    """As those of byte-level tokenizers do: each id stands for some bytes of a text here."""
    utf8 = "a€🙂é \u2581日本".encode() + b"\xff\x80z" + "€".encode()[:2]
    ends = [0, *sorted(min(cut, len(utf8)) for cut in cuts), len(utf8)]
    texts = [utf8[start:end] for start, end in pairwise(ends)]
    detokenizer = Detokenizer(Texts(texts))
    streamed = "".join(detokenizer.push([index]) for index in range(len(texts))) + detokenizer.flush()
    assert streamed == "a€🙂é \u2581日本" + 2 * "\ufffd" + "z" + 2 * "\ufffd"


def test_half_a_character_waits_for_its_other_half(tokenizer: Tokenizer):
    detokenizer = Detokenizer(tokenizer)
    first, *rest = [FIRST_BYTE_ID + byte for byte in "🙂".encode()]
    assert detokenizer.push([first]) == ""
    assert detokenizer.push(rest[:2]) == ""
    assert detokenizer.push(rest[2:]) == "🙂"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("token_id", [-1, 32000])
def test_id_outside_the_vocabulary_is_named(tokenizer: Tokenizer, token_id: int):
    with pytest.raises(InvalidRequestError, match=str(token_id)):
        Detokenizer(tokenizer).push([token_id])


def test_control_tokens_have_their_names_where_these_are_wanted(tokenizer: Tokenizer):
    ids = [1, *tokenizer.encode("one"), 2, FIRST_BYTE_ID + 65]
    assert Detokenizer(tokenizer).push(ids) == "oneA"
    assert Detokenizer(NamedControls(tokenizer)).push(ids) == "<s> one</s>A"
