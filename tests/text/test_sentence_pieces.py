import random

import pytest
from chat_files import copy_version, train_sentence_pieces, write_config
from transformers import LlamaTokenizer

from expertmesh.text.tokenizer import Tokenizer

# No blanks in a row: transformers 5 orders the merges of its own copy so that those come out otherwise.
WORDS = ("Hello", " world", "\n", "日本", "🙂", "x", ".", "\u2581y", "\t", "[IN")


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("version", [1, 3])
def test_text_among_tokens_has_the_ids_of_transformers(tmp_path, version: int, legacy: bool):
    write_config(copy_version(tmp_path, version), legacy=legacy, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer, oracle, rng = Tokenizer.open(tmp_path), LlamaTokenizer.from_pretrained(tmp_path), random.Random(0)
    for _ in range(300):
        words = rng.choices(WORDS, k=8)
        sections = [*("".join(words[:3]), 2) * rng.randint(0, 1), "".join(words[3:6]), 1, "".join(words[6:])]
        text = "".join({1: "<s>", 2: "</s>"}.get(one, one) for one in sections)
        assert tokenizer.encode_sections(sections) == oracle.encode(text, add_special_tokens=False), sections


class TestSymbolsOfItsOwn:
    """A model takes user-defined symbols out of any text by itself."""

    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls, tmp_path_factory) -> Tokenizer:
        directory = tmp_path_factory.mktemp("tokenizer")
        train_sentence_pieces(directory, user_defined=["<|start|>", "<<", "word"], control=["<|end|>"])
        return Tokenizer.open(write_config(directory, [(4, "<|start|>", True), (5, "<<", False)]))

    def test_control_symbols_are_known_by_name(self, tokenizer: Tokenizer):
        assert (tokenizer.control_id("<|end|>"), tokenizer.control_id("<|start|>")) == (3, 4)
        assert tokenizer.control_id("word") is None

    @pytest.mark.parametrize("text", ["<|start|>", "a <|start|><|end|>b", "<<<|start|>", "<<<", "a<<b<<"])
    def test_text_that_looks_like_an_added_one_stays_text(self, tokenizer: Tokenizer, text: str):
        ids = tokenizer.encode(text)
        assert not {3, 4, 5} & set(ids)
        assert tokenizer.decode(ids) == text

    def test_others_stay_pieces_of_text(self, tokenizer: Tokenizer):
        assert 6 in tokenizer.encode("a word")

    def test_special_ones_have_no_text(self, tokenizer: Tokenizer):
        assert tokenizer.decode([4, 6, 3, 5]) == "word<<"
        assert [tokenizer.has_text(token_id) for token_id in (3, 4, 5, 6)] == [False, False, True, True]
