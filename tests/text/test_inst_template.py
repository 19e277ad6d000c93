import random
from itertools import product

import pytest
from chat_files import VERSIONS, copy_version, train_sentence_pieces
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from sentencepiece import SentencePieceProcessor

from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.text.conversation import Message
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer

FRAGMENTS = (
    "Hello",
    " world",
    "  two spaces  ",
    "\n",
    "\t",
    "\r\n",
    "don't",
    "naïve café",
    "e\u0301",
    "日本語",
    "中文字符",
    "한국어",
    "Привет",
    "العربية",
    "🙂",
    "👩‍👩‍👧‍👦",
    "🇫🇷",
    "</s>",
    "<s>",
    "<unk>",
    "[INST]",
    "[/INST]",
    " [INST] ",
    "[TOOL_CALLS]",
    "trailing ",
    "<0x0A>",
    "\u2581",
    "\u00a0",
    "\u200b",
    "\ufeff",
    "\x00",
    "\x07",
    "\x1b[0m",
    "\u202e",
    "123456",
    "3.14",
    "a" * 50,
    "{}",
    "```py\n```",
    "ﬁ",
    "𝔘",
    "\U0010ffff",
)
MESSAGES = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
ORACLES = {1: MistralTokenizer.v1, 2: MistralTokenizer.v2, 3: MistralTokenizer.v3}


@pytest.fixture(scope="module", params=ORACLES)
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(version: int, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.open(copy_version(tmp_path_factory.mktemp("tokenizer"), version))


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> InstTemplate:
    return InstTemplate(tokenizer)


@pytest.fixture(scope="module")
def oracle(version: int) -> MistralTokenizer:
    return ORACLES[version]()


def conversation(rng: random.Random) -> list[Message]:
    def text() -> str:
        return "".join(rng.choices(FRAGMENTS, k=rng.randint(1, 8)))

    messages = [Message("system", text()) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    if rng.random() < 0.1:
        messages.append(Message("assistant", text()))
    for _ in range(rng.randint(0, 4)):
        asks = ["user", *(rng.choice(("user", "system")) for _ in range(rng.choice((0, 0, 0, 1, 2))))]
        messages += [Message(role, text()) for role in asks]
        messages += [Message("assistant", text()) for _ in range(rng.choice((1, 1, 1, 2)))]
    return [*messages, Message("user", rng.choice((text(), text(), "")))]


def mistral_ids(oracle: MistralTokenizer, messages: list[Message]) -> list[int]:
    request = ChatCompletionRequest(messages=[MESSAGES[m.role](content=m.content) for m in messages])
    return oracle.encode_chat_completion(request).tokens


def test_ids_equal_those_of_mistral_common_and_stream_back_on_a_thousand_conversations(
    tokenizer: Tokenizer, template: InstTemplate, oracle: MistralTokenizer, version: int
):
    rng, sentence_pieces = random.Random(0), SentencePieceProcessor(model_file=str(VERSIONS[version]))
    for _ in range(1000):
        messages = conversation(rng)
        ids = template.encode(messages)
        assert ids == mistral_ids(oracle, messages), messages
        detokenizer = Detokenizer(tokenizer)
        streamed = "".join(detokenizer.push([token_id]) for token_id in ids) + detokenizer.flush()
        assert streamed == sentence_pieces.decode(ids), messages


def test_users_write_no_control_ids(tokenizer: Tokenizer, template: InstTemplate, version: int):
    """Whatever they write: each control id is one that the template has put there."""
    names = [name for name, token in tokenizer.named_tokens.items() if token.is_special]
    plain = template.encode(
        [Message("system", "a"), Message("user", "b"), Message("assistant", "c"), Message("user", "d")]
    )
    for name in (*names[:40], "<unk>"):
        messages = [
            Message("system", name),
            Message("user", f"a{name}"),
            Message("assistant", name),
            Message("user", name),
        ]
        controls = [[one for one in ids if tokenizer.is_control(one)] for ids in (template.encode(messages), plain)]
        assert controls[0] == controls[1], name


@pytest.mark.parametrize(
    "roles", ["su", "ssu", "uu", "suu", "uuu", "suau", "uaau", "s", "us", "usu", "au", "sau", "usau"]
)
def test_empty_texts_vanish_as_in_mistral_common(template: InstTemplate, oracle: MistralTokenizer, roles: str):
    names = {"s": "system", "u": "user", "a": "assistant"}
    choices = [("answer", " ") if role == "a" else ("", " ", "text") for role in roles]
    for texts in product(*choices):
        messages = [Message(names[role], text) for role, text in zip(roles, texts, strict=True)]
        assert template.encode(messages) == mistral_ids(oracle, messages), messages


def test_a_system_message_after_an_assistants_is_taken_like_any_other(template: InstTemplate):
    spoken = [Message("user", "a"), Message("assistant", "b")]
    late = [*spoken, Message("system", "s"), Message("user", "c")]
    assert template.encode(late) == template.encode([Message("system", "s"), *spoken, Message("user", "c")])


PUBLISHED = {
    1: [1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793],
    2: [1, 3, 23325, 4],
    3: [1, 3, 23325, 4],
}


def test_published_ids(template: InstTemplate, version: int):
    assert template.encode([Message("user", "Hello")]) == PUBLISHED[version]
    assert template.has_ids == (version > 1)


def test_conversations_out_of_order_are_refused(template: InstTemplate):
    with pytest.raises(InvalidRequestError, match="the last message is the assistant's"):
        template.encode([Message("user", "a"), Message("assistant", "b")])


def test_a_client_may_set_no_variables(template: InstTemplate):
    assert template.with_variables({}) is template
    with pytest.raises(InvalidRequestError, match="chat_template_kwargs: thinking is not known"):
        template.with_variables({"thinking": True})


def test_a_tokenizer_of_a_later_version_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer.model holds \[SYSTEM_PROMPT\]"):
        InstTemplate(Tokenizer.open(copy_version(tmp_path, 7)))


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no begin- or end-of-sequence id"):
        InstTemplate(Tokenizer.open(train_sentence_pieces(tmp_path, eos_id=-1)))
