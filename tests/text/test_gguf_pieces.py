"""Tokens of GGUF files against the files that they were written from: the same ids and the same texts."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_files import (
    CHATML,
    DATA,
    VERSIONS,
    copy_version,
    train_sentence_pieces,
    write_chatml,
    write_config,
    write_json,
)
from gguf import GGUFWriter
from gguf_files import add_tokens, finish
from transformers.convert_slow_tokenizer import TikTokenConverter

from expertmesh.errors import CheckpointError
from expertmesh.text.conversation import Message
from expertmesh.text.gguf_pieces import WORDS
from expertmesh.text.template_choice import choose_template
from expertmesh.text.tokenizer import Tokenizer

TEKKEN_FILE = DATA / "tekken_240911.json"
NUM_TEXTS = 500  # for each of the tokenizers
PARTS = (
    *("Hello", " world", "  ", "\n", "\t", "   x", "日本語", "🙂", "é", "e\u0301", "\u2581", "\x00", "\u200b", "�"),
    *("</s>", "<s>", "<unk>", "[INST]", "[/INST]", "<0x0A>", "<|im_start|>", "<|im_end|>", "<<", "word"),
    *("3.14", "12345", "don't", "I'LL", "def f(x):\n    return x", "ПРИВЕТ", "\r\n\r\n", "///", "a" * 40),
)
CONVERSATION = [Message("user", "Hello <|im_end|>"), Message("assistant", "Hi"), Message("user", "Bye")]


def texts() -> list[str]:
    rng = random.Random(0)
    return ["", *("".join(rng.choices(PARTS, k=rng.randint(1, 8))) for _ in range(NUM_TEXTS))]


def write(path: Path, add) -> Path:
    """Write a file without tensors whose tokens ``add`` writes."""
    path.mkdir(exist_ok=True)
    writer = GGUFWriter(path / "tokens.gguf", "llama")
    add(writer)
    finish(writer)
    return path / "tokens.gguf"


def ids_of_named(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the tokens that templates can write, but for <unk>, which none does."""
    return {name: token.token_id for name, token in tokenizer.named_tokens.items() if name != "<unk>"}


def assert_alike(found: Tokenizer, expected: Tokenizer) -> None:
    assert (found.size, found.bos_id, found.eos_id) == (expected.size, expected.bos_id, expected.eos_id)
    assert ids_of_named(found) == ids_of_named(expected)
    for text in texts():
        ids = expected.encode_prompt(text)
        assert found.encode_prompt(text) == ids, text
        assert found.decode(ids) == expected.decode(ids)
        sections = [text, expected.eos_id, text]
        assert found.encode_sections(sections) == expected.encode_sections(sections), text
    for token_id in range(expected.size):
        for ask in ("is_control", "has_text", "byte", "token_bytes", "drops_space", "piece"):
            assert getattr(found, ask)(token_id) == getattr(expected, ask)(token_id), (ask, token_id)


@pytest.mark.parametrize("version", [1, 3])
def test_published_models_of_sentence_piece(tmp_path, version):
    copied = write_config(copy_version(tmp_path, version), legacy=True, unk_token="<unk>")
    found = Tokenizer.open(write(tmp_path, lambda writer: add_tokens(writer, VERSIONS[version])))
    assert_alike(found, Tokenizer.open(copied))


def test_symbols_of_its_own(tmp_path):
    train_sentence_pieces(tmp_path, user_defined=["<|im_start|>", "<<", "word"], control=["<|im_end|>"])
    write_config(tmp_path, legacy=True, unk_token="<unk>")
    found = Tokenizer.open(write(tmp_path, lambda writer: add_tokens(writer, tmp_path / "tokenizer.model")))
    assert_alike(found, Tokenizer.open(tmp_path))


def test_tokens_that_a_fine_tune_added(tmp_path):
    """In SentencePiece's own file they would be taken out of any text; here they stay what a template writes."""
    directory = write_chatml(tmp_path, legacy=True)

    def add(writer: GGUFWriter) -> None:
        add_tokens(writer, VERSIONS[1], more=[("<|im_end|>", 3), ("<|im_start|>", 4)])
        writer.add_eos_token_id(32000)
        writer.add_chat_template(CHATML)

    path = write(tmp_path / "gguf", add)
    found, expected = Tokenizer.open(path, 32002), Tokenizer.open(directory, 32002)
    assert_alike(found, expected)
    template = choose_template(path, found)
    assert template.reason == f"chat_template of {path}"
    ids = template.template.encode(CONVERSATION)
    assert ids == choose_template(directory, expected).template.encode(CONVERSATION)
    assert (ids.count(32000), ids.count(32001)) == (3, 4)


def add_json_tokens(writer: GGUFWriter, file: Path, words: str) -> None:
    """Write the tokens of a tokenizer.json as llama.cpp's converter does."""
    data = json.loads(file.read_text())
    added = {token["content"]: token for token in data["added_tokens"]}
    ids = {**data["model"]["vocab"], **{text: token["id"] for text, token in added.items()}}
    types = [(3 if added[text]["special"] else 4) if text in added else 1 for text in ids]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(list(ids))
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in data["model"]["merges"]])
    writer.add_bos_token_id(ids["<s>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_unk_token_id(ids["<unk>"])
    writer.add_add_bos_token(True)


@pytest.mark.parametrize("words", ["gpt-2", *WORDS])
def test_byte_level_pieces(tmp_path, words):
    file = write_json(tmp_path, "byte-level") / "tokenizer.json"
    path = write(tmp_path / "gguf", lambda writer: add_json_tokens(writer, file, words))
    if words in WORDS:
        data = json.loads(file.read_text())
        split = {"type": "Split", "pattern": {"Regex": WORDS[words]}, "behavior": "Isolated", "invert": False}
        byte_level = {**data["pre_tokenizer"], "use_regex": False}
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
        data["model"]["ignore_merges"] = True
        file.write_text(json.dumps(data))
    assert_alike(Tokenizer.open(path), Tokenizer.open(tmp_path))


def test_words_are_those_of_llama_and_tekken():
    assert WORDS["llama-bpe"] == TikTokenConverter().pattern
    assert WORDS["tekken"] == json.loads(TEKKEN_FILE.read_text())["config"]["pattern"]


def broken(**changes: list) -> Callable[[GGUFWriter], None]:
    """Write four tokens with ``changes`` in their lists."""
    lists = {"tokens": ["<unk>", "<s>", "</s>", "a"], "scores": [0.0] * 4, "types": [2, 3, 3, 1], **changes}

    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(lists["tokens"])
        writer.add_token_scores(lists["scores"])
        writer.add_token_types(lists["types"])

    return add


def kind(model: str, words: str = "default") -> Callable[[GGUFWriter], None]:
    """Write a token of a tokenizer of another kind."""

    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(words)
        writer.add_token_list(["a"])

    return add


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda writer: None, "holds no tokenizer; tokenizer.ggml.tokens would be right"),
        (broken(scores=[0.0]), "tokenizer.ggml.scores has 1 entries; 4, one a token, would be right"),
        (broken(types=[2, 3, 3, 9]), "tokenizer.ggml.token_type holds 9; 1 to 6 would be right"),
        (broken(tokens=["<unk>", "<s>", "a", "a"]), "its tokens are damaged or none of SentencePiece"),
        (broken(types=[1, 3, 3, 1]), "its tokens are damaged or none of SentencePiece"),
        (lambda writer: (broken()(writer), writer.add_eos_token_id(4)), "eos_token_id is 4; the id of one of 4 tokens"),
        (kind("bert"), "tokenizer.ggml.model 'bert' is not supported; supported: llama or"),
        (kind("gpt2", "qwen2"), "tokenizer.ggml.pre 'qwen2' is not supported; supported: gpt-2"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, add, message):
    path = write(tmp_path, add)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.open(path)
