import random
from itertools import product

import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from expertmesh.errors import InvalidRequestError
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.template import Message, encode_chat, encode_prompt
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


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory) -> Tokenizer:
    return Tokenizer.open(tokenizer_directory)


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


def test_ids_equal_those_of_mistral_common_and_stream_back_on_a_thousand_conversations(tokenizer: Tokenizer):
    oracle = MistralTokenizer.v1()
    rng = random.Random(0)
    for _ in range(1200):
        messages = conversation(rng)
        ids = encode_chat(tokenizer, messages)
        assert ids == mistral_ids(oracle, messages), messages
        detokenizer = Detokenizer(tokenizer)
        streamed = "".join(detokenizer.push([token_id]) for token_id in ids) + detokenizer.flush()
        assert streamed == tokenizer.decode(ids), messages


@pytest.mark.parametrize(
    "roles", ["su", "ssu", "uu", "suu", "uuu", "suau", "uaau", "s", "us", "usu", "au", "sau", "usau"]
)
def test_empty_texts_vanish_as_in_mistral_common(tokenizer: Tokenizer, roles: str):
    oracle = MistralTokenizer.v1()
    names = {"s": "system", "u": "user", "a": "assistant"}
    choices = [("answer",) if role == "a" else ("", " ", "text") for role in roles]
    for texts in product(*choices):
        messages = [Message(names[role], text) for role, text in zip(roles, texts, strict=True)]
        assert encode_chat(tokenizer, messages) == mistral_ids(oracle, messages), messages


def test_a_system_message_after_an_assistants_stands_before_the_first_user_text(tokenizer: Tokenizer):
    spoken = [Message("user", "a"), Message("assistant", "b")]
    late = [*spoken, Message("system", "s"), Message("user", "c")]
    assert encode_chat(tokenizer, late) == encode_chat(
        tokenizer, [Message("system", "s"), *spoken, Message("user", "c")]
    )


def test_published_ids(tokenizer: Tokenizer):
    assert encode_chat(tokenizer, [Message("user", "Hello")]) == [1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793]
    turns = [Message("user", "Hello"), Message("assistant", "Hi there"), Message("user", "Bye")]
    assert encode_chat(tokenizer, turns) == [
        *(1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793),
        *(15359, 736, 2),
        *(733, 16289, 28793, 2463, 28706, 733, 28748, 16289, 28793),
    ]


def test_raw_text_gets_the_begin_id_only(tokenizer: Tokenizer):
    assert encode_prompt(tokenizer, "Hello") == [1, 22557]
    assert encode_prompt(tokenizer, "") == [1]


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ([], "empty"),
        (["tool"], "role 'tool'"),
        (["user", "assistant"], "last message is the assistant's"),
        (["user", "assistant", "system"], "last message is the assistant's"),
    ],
)
def test_conversations_out_of_order_are_refused(tokenizer: Tokenizer, roles: list[str], message: str):
    with pytest.raises(InvalidRequestError, match=message):
        encode_chat(tokenizer, [Message(role, "text") for role in roles])


def test_empty_assistant_message_is_refused(tokenizer: Tokenizer):
    with pytest.raises(InvalidRequestError, match="message 1, the assistant's, is empty"):
        encode_chat(tokenizer, [Message("user", "a"), Message("assistant", ""), Message("user", "b")])
