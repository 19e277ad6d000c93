import random
import shutil
import sys

import pytest
from chat_files import DATA
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from expertmesh.errors import CheckpointError
from expertmesh.text.conversation import Message
from expertmesh.text.template_choice import choose_template
from expertmesh.text.tokenizer import Tokenizer

WORDS = (
    "Hello",
    " world",
    "  ",
    "\n",
    "日本語",
    "🙂",
    "café",
    "[INST]",
    "</s>",
    " [/INST] ",
    "don't",
    "e\u0301",
    "2024",
)
MESSAGES = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(DATA / "tekken_240718.json", directory / "tekken.json")
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory) -> Tokenizer:
    return Tokenizer.open(directory)


@pytest.fixture(scope="module")
def oracle(directory) -> MistralTokenizer:
    return MistralTokenizer.from_file(str(directory / "tekken.json"))


def test_conversations_have_the_ids_of_mistral_common(directory, tokenizer: Tokenizer, oracle: MistralTokenizer):
    template, rng = choose_template(directory, tokenizer).template, random.Random(0)
    for _ in range(300):
        roles = ["system"] * rng.randint(0, 1) + ["user", "assistant"] * rng.randint(0, 2) + ["user"]
        messages = [Message(role, "".join(rng.choices(WORDS, k=rng.randint(1, 6)))) for role in roles]
        request = ChatCompletionRequest(messages=[MESSAGES[one.role](content=one.content) for one in messages])
        ids = template.encode(messages)
        assert ids == oracle.encode_chat_completion(request).tokens
        assert tokenizer.decode(ids) == oracle.decode(ids)


def test_special_tokens_have_names_and_no_text(tokenizer: Tokenizer):
    assert [tokenizer.control_id(name) for name in ("<s>", "</s>", "[INST]", "[/INST]")] == [1, 2, 3, 4]
    assert tokenizer.token_bytes(3) == b""
    assert tokenizer.piece(3) == "[INST]"
    assert tokenizer.encode_sections(["a", 3, " b"]) == [*tokenizer.encode("a"), 3, *tokenizer.encode(" b")]


def test_a_piece_may_be_part_of_a_character(tokenizer: Tokenizer):
    ids = tokenizer.encode("🙃 x")
    assert b"".join(map(tokenizer.token_bytes, ids)) == "🙃 x".encode()
    assert tokenizer.piece(ids[-1]) == "\u2581x"


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "tekken.json").write_text('{"config": {}}')
    with pytest.raises(CheckpointError, match="tekken.json is damaged"):
        Tokenizer.open(tmp_path)


def test_what_is_to_be_installed_is_named(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "mistral_common.tokens.tokenizers.tekken", None)
    with pytest.raises(CheckpointError, match=r"tekken.json needs mistral-common, .* 'expertmesh\[tekken\]' would"):
        Tokenizer.open(directory)
