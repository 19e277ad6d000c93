"""The demo model's tokenizer, and its conversations as ids. Knows pieces, not tensors."""

import io
import random
from collections.abc import Iterator
from pathlib import Path

import corpus
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

VOCAB_SIZE = 1024
NUM_CONVERSATIONS = 60_000
SEED = 1

Example = tuple[list[int], list[bool]]


def train_tokenizer(path: Path) -> None:
    """Train a tokenizer with the settings of Mixtral's, digits by themselves, on text in the [INST] form."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=_sentences(),
        model_writer=model,
        vocab_size=VOCAB_SIZE,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        split_by_unicode_script=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        num_threads=2,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def encode(tokenizer: SentencePieceProcessor, turns: tuple[corpus.Turn, ...]) -> Example:
    """Ids of a conversation in the [INST] template, and which of them the model is to produce."""
    ids, is_answer = [tokenizer.bos_id()], [False]
    for question, answer in turns:
        asked = tokenizer.encode(f"[INST] {question} [/INST]")
        answered = [*tokenizer.encode(answer), tokenizer.eos_id()]
        ids += asked + answered
        is_answer += [False] * len(asked) + [True] * len(answered)
    return ids, is_answer


def _sentences() -> Iterator[str]:
    rng = random.Random(SEED)
    for _ in range(NUM_CONVERSATIONS):
        for question, answer in corpus.training(rng).turns:
            yield f"[INST] {question} [/INST]"
            yield answer
