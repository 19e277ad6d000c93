"""Words that a SentencePiece model makes one token of. Knows a vocabulary, not a server."""

from pathlib import Path

from sentencepiece import SentencePieceProcessor

from expertmesh.loadgen.prompts import Words

# The mark of a space before a word.
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def single_token_words(model: Path) -> Words:
    """List the plain words of a ``tokenizer.model`` that are one token by themselves.

    A text of such words has a token for each: SentencePiece joins nothing across the space before a word.
    """
    tokenizer = SentencePieceProcessor(model_file=str(model))
    pieces = (tokenizer.id_to_piece(token_id) for token_id in range(tokenizer.get_piece_size()))
    words = [piece[1:] for piece in pieces if piece[:1] == SPACE and piece[1:].isascii() and piece[1:].isalpha()]
    return Words(tuple(word for word in words if len(tokenizer.encode(word)) == 1))
