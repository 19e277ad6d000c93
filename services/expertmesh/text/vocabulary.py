"""The text that each token adds to an answer. Knows pieces and bytes, not grammars."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertmesh.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """The bytes of tokens, as a client sees them.

    A piece that begins an answer loses its space. Its text is then that of another id, or else of a token that is added
    behind the V of the model: ``start_ids`` [V] says which. A piece that is only a space is silent there.
    """

    texts: list[bytes]
    special_ids: list[int]
    eos_ids: list[int]
    start_ids: NDArray[np.int64]
    is_silent_at_start: NDArray[np.bool_]

    @classmethod
    def read(cls, tokenizer: Tokenizer, eos_ids: Iterable[int], vocab_size: int) -> "Vocabulary":
        """Ask ``tokenizer`` for every id; those that it does not know are special, as if they were control tokens."""
        known = set(range(min(vocab_size, tokenizer.size))) - set(eos_ids)
        spoken = [token_id for token_id in sorted(known) if tokenizer.has_text(token_id)]
        special_ids = sorted(set(range(vocab_size)) - set(spoken))
        texts = [f"<{token_id}>".encode() for token_id in range(vocab_size)]
        for token_id in spoken:
            texts[token_id] = tokenizer.token_bytes(token_id)
        begun = {token_id: texts[token_id][1:] for token_id in spoken if tokenizer.drops_space(token_id)}
        ids = {texts[token_id]: token_id for token_id in spoken}
        added = sorted(set(begun.values()) - set(ids) - {b""})
        ids.update({text: vocab_size + index for index, text in enumerate(added)})
        start_ids, is_silent = np.arange(vocab_size), np.zeros(vocab_size, np.bool_)
        for token_id, text in begun.items():
            start_ids[token_id] = ids.get(text, token_id)
            is_silent[token_id] = text == b""
        return cls(texts + added, special_ids, [i for i in eos_ids if i < vocab_size], start_ids, is_silent)
