import json
import random
import re

import numpy as np
import pytest
from chat_files import CHATML, write_config, write_json
from tokenizers import AddedToken
from transformers import AutoTokenizer

from expertmesh.errors import CheckpointError
from expertmesh.text.constraint import GrammarCompiler
from expertmesh.text.conversation import Message
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.jinja_template import JinjaTemplate
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.text.vocabulary import Vocabulary

WORDS = ("Hello", " world", "  ", "\n", "日本語", "🙂", "x", " ", "café", "\u2581", "\t", "don't", "2024", "<", "|")
KINDS = ("metaspace", "prepend", "byte-level")


@pytest.fixture(scope="module", params=KINDS)
def directory(request, tmp_path_factory):
    return write_json(tmp_path_factory.mktemp("tokenizer"), request.param)


@pytest.fixture(scope="module")
def tokenizer(directory) -> Tokenizer:
    return Tokenizer.open(directory)


@pytest.fixture(scope="module")
def oracle(directory):
    return AutoTokenizer.from_pretrained(directory)


def test_rows_of_spaces_may_be_tokens(tmp_path):
    """As in the files of GPT-NeoX and of models with its tokenizer."""
    write_json(tmp_path, "byte-level", [AddedToken(" " * length, normalized=True) for length in range(24, 1, -1)])
    tokenizer, oracle, rng = Tokenizer.open(tmp_path), AutoTokenizer.from_pretrained(tmp_path), random.Random(2)
    for _ in range(300):
        text = "".join(rng.choices((*WORDS, "    ", " " * 11, "\n        return"), k=rng.randint(1, 8)))
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text, add_special_tokens=False), text
        assert tokenizer.decode(ids) == text
    template = JinjaTemplate(tokenizer, CHATML, "chatml")
    conversation = [{"role": "user", "content": "def f():\n        return 1    "}]
    expected = oracle.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"]
    assert template.encode([Message("user", conversation[0]["content"])]) == expected


def texts(count: int):
    rng = random.Random(0)
    return ["".join(rng.choices(WORDS, k=rng.randint(0, 8))) for _ in range(count)]


def test_ids_and_streamed_text_are_those_of_transformers(tokenizer: Tokenizer, oracle):
    for text in texts(500):
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text, add_special_tokens=False), text
        assert tokenizer.encode_prompt(text) == oracle.encode(text), text
        detokenizer = Detokenizer(tokenizer)
        streamed = "".join(detokenizer.push([token_id]) for token_id in ids) + detokenizer.flush()
        assert streamed == tokenizer.decode(ids) == oracle.decode(ids), text


def test_text_among_tokens_has_the_ids_of_transformers(tokenizer: Tokenizer, oracle):
    names = {"<s>": 1, "</s>": 2, "<|im_end|>": tokenizer.size - 2, "<|im_start|>": tokenizer.size - 1}
    rng = random.Random(1)
    for first, second in zip(texts(200), texts(400)[200:], strict=True):
        name, other = rng.choices(list(names), k=2)
        ids = tokenizer.encode_sections([first, names[name], second, names[other]])
        assert ids == oracle.encode(first + name + second + other, add_special_tokens=False)
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["<s>", "</s>", "<unk>", "<|im_end|>", "<|im_start|>"])
def test_text_that_looks_like_a_token_stays_text(tokenizer: Tokenizer, oracle, name: str):
    ids = tokenizer.encode(f"a{name}b")
    assert not {token_id for token_id in ids if tokenizer.is_control(token_id) or token_id == tokenizer.size - 1}
    assert tokenizer.decode(ids) == f"a{name}b"
    assert ids == oracle.encode(f"a{name}b", add_special_tokens=False, split_special_tokens=True) or "start" in name


def test_merges_do_not_make_control_tokens_of_text(tmp_path):
    """As some published files do: any text that holds </s> would end what a user says."""
    path = write_json(tmp_path, "metaspace") / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["vocab"]["/s"] = data["added_tokens"].pop()["id"]
    data["model"]["vocab"]["</s"] = data["added_tokens"].pop()["id"]
    data["model"]["merges"] = [["/", "s"], ["<", "/s"], ["</s", ">"], *data["model"]["merges"]]
    path.write_text(json.dumps(data))
    write_config(tmp_path, eos_token="</s>")
    assert 2 in AutoTokenizer.from_pretrained(tmp_path).encode("a</s>", split_special_tokens=True)
    tokenizer = Tokenizer.open(tmp_path)
    assert 2 not in tokenizer.encode("a</s>")
    assert tokenizer.decode(tokenizer.encode("a</s>")) == "a</s>"


def test_ids_without_a_token_have_no_text(directory):
    tokenizer = Tokenizer.open(directory, 1000)
    assert tokenizer.decode([*tokenizer.encode("Hello"), 999]) == "Hello"
    assert tokenizer.piece(999) == "<999>"


def test_the_vocabulary_has_the_texts_that_the_detokenizer_adds(tokenizer: Tokenizer):
    vocabulary = Vocabulary.read(tokenizer, [tokenizer.eos_id], tokenizer.size)
    for token_id in sorted(set(range(tokenizer.size)) - set(vocabulary.special_ids)):
        beginning, middle = Detokenizer(tokenizer), Detokenizer(tokenizer)
        middle.push(tokenizer.encode("a"))
        if is_whole(vocabulary.texts[token_id]):
            start = b"" if vocabulary.is_silent_at_start[token_id] else vocabulary.texts[vocabulary.start_ids[token_id]]
            assert beginning.push([token_id]).encode() == start
            assert middle.push([token_id]).encode() == vocabulary.texts[token_id]


def is_whole(utf8: bytes) -> bool:
    return utf8.decode(errors="ignore").encode() == utf8


def test_a_grammar_holds(tokenizer: Tokenizer):
    compiler = GrammarCompiler(tokenizer, [tokenizer.eos_id], tokenizer.size)
    for seed in range(20):
        constraint = compiler.compile(Grammar(GrammarKind.REGEX, "[a-z]{1,4} (日|é)+[0-9]"))
        rng, ids = np.random.default_rng(seed), []
        while tokenizer.eos_id not in ids:
            ids.append(int(rng.choice(np.flatnonzero(constraint.allowed()))))
            constraint.advance(ids[-1])
        assert re.fullmatch("[a-z]{1,4} (日|é)+[0-9]", tokenizer.decode(ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece"}}, "model.type is 'WordPiece'; BPE or Unigram would be right"),
        ({"model": None}, "model.type is None"),
        ({"decoder": {"type": "CTC"}}, "decoder {'type': 'CTC'} is not supported; .*: ByteLevel"),
        ({"decoder": None}, "decoder {} is not supported"),
        ({"decoder": {"type": "Replace", "pattern": {"String": "_"}, "content": " "}}, "'_'.* is not supported"),
        ({"decoder": {"type": "Metaspace", "replacement": "_"}}, "'replacement': '_'} is not supported"),
        ({"decoder": {"type": "Sequence"}}, "tokenizer.json is damaged: KeyError"),
        ({"model": {"type": "BPE"}}, "tokenizer.json is damaged: KeyError"),
        ({"added_tokens": 5}, "tokenizer.json is damaged: TypeError"),
        ({"post_processor": {"type": "TemplateProcessing"}}, "tokenizer.json is damaged: KeyError"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}, "tokenizer.json is damaged: "),
        ({"added_tokens": [{"id": 5}]}, "added_tokens.0 is .*; an object with a text under content would be right"),
        ({"added_tokens": [{"id": 5000, "content": "<x>"}]}, r"the id of '<x>' is 5000; \d+, the next one"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message: str):
    path = write_json(tmp_path, "metaspace") / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.open(tmp_path)
