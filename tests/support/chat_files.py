"""Tokenizers as tools write them: published SentencePiece models, trained tokenizer.json files, what stands beside."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mistral_common
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(mistral_common.__file__).parent / "data"
VERSIONS = {
    1: DATA / "tokenizer.model.v1",
    2: DATA / "mistral_instruct_tokenizer_240216.model.v2",
    3: DATA / "mistral_instruct_tokenizer_240323.model.v3",
    7: DATA / "mistral_instruct_tokenizer_241114.model.v7",
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# ChatML as Qwen3 has it, in other words: reasoning in answers before the last question is left out.
THINKING = (
    "{% for message in messages %}{% set text = message.content %}{% if message.role == 'assistant' and "
    "'</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\\n' + text + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and "
    "enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
# OLMoE's, in other words: every question and answer behind the name of who speaks, and an end behind each answer.
NAMED_TURNS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>\\n' + message.content }}"
    "{{ eos_token if message.role == 'assistant' else '' }}{{ '\\n' }}{% if loop.last and add_generation_prompt %}"
    "{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
# The template of Mixtral-8x7B-Instruct-v0.1, in other words.
INST = (
    "{{ bos_token }}{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant take turns') }}{% endif %}{% if message.role == 'user' %}"
    "{{ ' [INST] ' + message.content + ' [/INST]' }}{% else %}{{ ' ' + message.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
TEXTS = (
    "Hello world, how are you? The quick brown fox jumps over the lazy dog. ",
    "It's a naïve café in 2024; 日本語 and Привет, too.\n\tdef f(x):\n        return x + 1\n",
    "user assistant system [INST] one two three [/INST] <|im_start|> 3.14 a b c d e f g h i j k l m n o p q r s t u v",
) * 20


def copy_version(directory: Path, version: int = 1) -> Path:
    """Copy a published SentencePiece model."""
    shutil.copy(VERSIONS[version], directory / "tokenizer.model")
    return directory


def write_config(directory: Path, added: Sequence[tuple[int, str, bool]] = (), **values: Any) -> Path:
    """Write a tokenizer_config.json that adds tokens: id, text and whether it is special."""
    if added:
        flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
        entries = {str(token_id): {"content": text, "special": special, **flags} for token_id, text, special in added}
        values["added_tokens_decoder"] = entries
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **values}))
    return directory


def write_chatml(directory: Path, version: int = 1, **values: Any) -> Path:
    """Write a fine-tune of a published tokenizer that speaks ChatML; <|im_start|> is not even special."""
    size = 32000 if version == 1 else 32768
    own = [(index, text, True) for index, text in enumerate(("<unk>", "<s>", "</s>"))]
    added = [*own, (size, "<|im_end|>", True), (size + 1, "<|im_start|>", False)]
    values = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "chat_template": CHATML, **values}
    return write_config(copy_version(directory, version), added, **values)


def write_json(directory: Path, kind: str, more: Sequence[AddedToken] = ()) -> Path:
    """Train a small tokenizer.json and write it alone; ``more`` tokens are added to it.

    ``kind`` is "metaspace", as transformers 5 makes them of SentencePiece models, "prepend", as older ones did, or
    "byte-level".
    """
    special = [AddedToken(text, normalized=False, special=True) for text in ("<unk>", "<s>", "</s>")]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind != "byte-level", fuse_unk=True))
    alphabet: list[str] = []
    if kind == "byte-level":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        special += [AddedToken(f"<0x{byte:02X}>", normalized=False) for byte in range(256)]
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(parts)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = None  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    end = AddedToken("<|im_end|>", normalized=False, special=True)
    tokenizer.add_tokens([end, AddedToken("<|im_start|>", normalized=False), *more])
    data = json.loads(tokenizer.to_str())
    # Bytes are pieces like others in such files.
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
    (directory / "tokenizer.json").write_text(json.dumps(data))
    roles = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML, **roles}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def train_sentence_pieces(
    directory: Path, user_defined: Sequence[str] = (), control: Sequence[str] = (), **options: Any
) -> Path:
    """Train a small SentencePiece model with symbols of its own."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter("".join(TEXTS).splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=list(user_defined),
        control_symbols=list(control),
        minloglevel=2,
        **options,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    return directory


# What templates with tools do: Qwen's and Hermes's way, in other words, and Mistral's with its strict turns.
HERMES_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}"
    "{% endif %}{{ '<tools>' }}{% for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}{{ '\\n</tools>"
    "<|im_end|>\\n' }}{% endif %}{% for message in messages %}{% if message.role == 'tool' %}{{ '<|im_start|>user\\n"
    "<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}{% elif message.role != 'system' or "
    "not tools %}{{ '<|im_start|>' + message.role + '\\n' + message.content }}{% for call in message.tool_calls %}"
    '{{ \'\\n<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MISTRAL_TOOLS = (
    "{{ bos_token }}{% set ns = namespace(turn='user') %}{% for message in messages %}"
    "{% if message.role in ('user', 'assistant') and not message.tool_calls %}{% if message.role != ns.turn %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set ns.turn = 'assistant' if ns.turn == 'user' else 'user' %}{% endif %}"
    "{% if message.role == 'user' %}{% if loop.last and tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + "
    "'[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST] ' + message.content + '[/INST]' }}{% elif message.tool_calls %}"
    "{{ '[TOOL_CALLS] [' }}{% for call in message.tool_calls %}{% if call.id | length != 9 %}"
    "{{ raise_exception('ids have length 9') }}{% endif %}"
    "{{ '{\"name\": \"' + call.function.name + '\", \"arguments\": ' + call.function.arguments | tojson + '}' }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}{% elif message.role == 'tool' %}"
    "{{ '[TOOL_RESULTS] ' + message.content + '[/TOOL_RESULTS]' }}{% elif message.role == 'assistant' %}"
    "{{ ' ' + message.content + eos_token }}{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
    "{% if tools and messages | length == 1 %}{{ tools[0].function.name }}{% endif %}"
)
