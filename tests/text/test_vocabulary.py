import pytest

from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.vocabulary import Vocabulary

VOCAB = 32_100


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory) -> Tokenizer:
    return Tokenizer.open(tokenizer_directory)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary.read(tokenizer, [2, 1000, 50_000], VOCAB)


def test_ids_without_text_are_special(vocabulary: Vocabulary):
    assert vocabulary.special_ids == [0, 1, 2, 1000, *range(32_000, VOCAB)]
    assert vocabulary.eos_ids == [2, 1000]


def test_texts_are_those_that_the_detokenizer_adds(tokenizer: Tokenizer, vocabulary: Vocabulary):
    """At the start of an answer and in the middle of it, but for bytes, which wait for others."""
    spoken = set(range(tokenizer.vocab_size)) - set(vocabulary.special_ids)
    for token_id in sorted(token_id for token_id in spoken if tokenizer.byte(token_id) is None):
        beginning, middle = Detokenizer(tokenizer), Detokenizer(tokenizer)
        middle.push(tokenizer.encode("a"))
        start = b"" if vocabulary.is_silent_at_start[token_id] else vocabulary.texts[vocabulary.start_ids[token_id]]
        assert beginning.push([token_id]).encode() == start
        assert middle.push([token_id]).encode() == vocabulary.texts[token_id]


def test_bytes_keep_their_text_at_the_start(vocabulary: Vocabulary):
    assert [vocabulary.texts[vocabulary.start_ids[3 + byte]] for byte in range(256)] == [
        bytes([byte]) for byte in range(256)
    ]
    assert vocabulary.is_silent_at_start.sum() == 1
