from itertools import product
from pathlib import Path

import pytest

from expertmesh.text.pieces import NamedToken
from expertmesh.text.token_names import MARK, TokenNames

FILE = Path("tokenizer.json")


@pytest.fixture(scope="module")
def names() -> TokenNames:
    texts = ("<s>", "</s>", "<|im_end|>", "<|im_end|>x", "[INST]", "#")
    return TokenNames(NamedToken(token_id, text, True, FILE) for token_id, text in enumerate(texts))


def test_a_template_writes_tokens_and_the_longest_counts(names: TokenNames):
    assert list(names.split("<s>a<|im_end|>xb#<|im_end|>")) == [0, "a", 3, "b", 5, 2]
    assert list(names.split("plain")) == ["plain"]


@pytest.mark.parametrize("text", ["<s>", "a</s>b", "[INST]<s>[INST]", "#", "##", "<|im_end|>x", "<<s>>", "\n<s>\n"])
def test_what_a_message_holds_is_text(names: TokenNames, text: str):
    assert list(names.split(names.mark(text))) == [text]


def test_what_looks_like_no_token_is_left_alone(names: TokenNames):
    assert names.mark("a < b, [x] and |> </") == "a < b, [x] and |> <" + MARK + "/"


def test_no_two_messages_make_a_token_together(names: TokenNames):
    """Nor does a message with what a template writes beside it, or with the blanks around it taken off."""
    for name in ("<|im_end|>", "</s>", "[INST]"):
        for cut, (before, behind) in product(range(1, len(name)), [("", ""), (" ", "\n"), ("a ", " b")]):
            first, second = name[:cut], name[cut:]
            marked = names.mark(before + first + " ").rstrip(), names.mark(" " + second + behind).lstrip()
            for text in ("".join(marked), first + marked[1], marked[0] + second):
                assert all(isinstance(part, str) for part in names.split(text)), text


def test_blanks_go_with_a_token_that_takes_them():
    names = TokenNames(
        [NamedToken(7, "<a>", True, FILE, takes_left=True), NamedToken(8, "<b>", True, FILE, False, True)]
    )
    assert list(names.split("x \n<a> y <b>  z<b> <a>")) == ["x", 7, " y ", 8, "z", 8, 7]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [" " * 1_000_000, "<" * 1_000_000, "[IN" * 300_000, "<s>" * 300_000])
def test_long_texts_are_read_once(text: str):
    tokens = [NamedToken(index, f"[INST{index}]", True, FILE, takes_left=index == 7) for index in range(800)]
    names = TokenNames([*tokens, NamedToken(800, "<s>", True, FILE, takes_right=True)])
    assert list(names.split(names.mark(text))) == [text]


def test_there_may_be_no_tokens():
    names = TokenNames([])
    assert list(names.split(names.mark("<s>"))) == ["<s>"]
