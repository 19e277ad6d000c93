"""The tokens of a GGUF file as pieces of text. Knows what SentencePiece and tokenizer.json call the same."""

from collections.abc import Iterable
from typing import Any

from sentencepiece import SentencePieceProcessor

from expertmesh.errors import CheckpointError
from expertmesh.text.gguf_tokens import ADDED_SCORE, SENTENCE_PIECE, GgufTokens, TokenType
from expertmesh.text.pieces import Pieces
from expertmesh.text.sentence_pieces import SentencePieces
from expertmesh.text.tokenizer_config import TokenizerConfig

# What cuts a text into words before byte-level pieces are merged, by the names that llama.cpp has for it. Llama 3 and
# tekken have it in their own files.
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
WORDS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + BEFORE + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST,
    "tekken": f"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*" + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + REST,
}
# Whose words the library's own byte-level pieces have.
PLAIN = "gpt-2"


def open_pieces(tokens: GgufTokens) -> Pieces:
    """Make pieces of tokens; CheckpointError when they are damaged or of a kind that is not supported."""
    if tokens.keys.word("ggml.model", SENTENCE_PIECE) == SENTENCE_PIECE:
        return _open_sentence_pieces(tokens)
    from expertmesh.text.json_pieces import JsonPieces

    added = tokens.of_type(TokenType.CONTROL, TokenType.USER_DEFINED)
    return JsonPieces.make(_make_json(tokens), tokens.file, _configure(tokens, added, adds_bos=False))


def _open_sentence_pieces(tokens: GgufTokens) -> Pieces:
    processor = SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(_make_model(tokens))
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{tokens.file}: its tokens are damaged or none of SentencePiece: {error}") from None
    added = (one for one in tokens.of_type(TokenType.USER_DEFINED) if tokens.scores[one] == ADDED_SCORE)
    return SentencePieces(processor, tokens.file, _configure(tokens, added, adds_bos=True))


def _make_model(tokens: GgufTokens) -> bytes:
    """Write the tokens as tokenizer.model has them."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # makes its classes while it is imported
    model, roles, keys = messages.ModelProto(), tokens.roles, tokens.keys
    for text, score, kind in zip(tokens.texts, tokens.scores, tokens.types, strict=True):
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type = messages.TrainerSpec.ModelType.BPE
    model.trainer_spec.byte_fallback = TokenType.BYTE in tokens.types
    model.trainer_spec.unk_piece = next((tokens.texts[one] for one in tokens.of_type(TokenType.UNKNOWN)), "")
    model.trainer_spec.bos_piece, model.trainer_spec.eos_piece = (
        roles.get(f"{end}_token", "") for end in ("bos", "eos")
    )
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = keys.flag("ggml.add_space_prefix", True)
    model.normalizer_spec.remove_extra_whitespaces = keys.flag("ggml.remove_extra_whitespaces", False)
    serialized: bytes = model.SerializeToString()
    return serialized


def _make_json(tokens: GgufTokens) -> dict[str, Any]:
    """Write the tokens as tokenizer.json has them."""
    words = tokens.keys.word("ggml.pre", "default")
    if words not in (PLAIN, *WORDS):
        raise tokens.keys.unsupported("ggml.pre", "", ", ".join((PLAIN, *WORDS)))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words == PLAIN}
    split = {"type": "Split", "pattern": {"Regex": WORDS.get(words)}, "behavior": "Isolated", "invert": False}
    return {
        "model": {
            "type": "BPE",
            "vocab": {text: token_id for token_id, text in enumerate(tokens.texts)},
            "merges": tokens.keys.get("ggml.merges") or [],
            # A word that is a token itself is taken as it is.
            "ignore_merges": words in WORDS,
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [byte_level] if words == PLAIN else [split, byte_level]},
        "decoder": byte_level,
    }


def _configure(tokens: GgufTokens, added: Iterable[int], adds_bos: bool) -> TokenizerConfig:
    """Say of tokens what other checkpoints say in tokenizer_config.json; as in llama.cpp, sections get spaces."""
    return TokenizerConfig(
        roles=tokens.roles,
        added={token_id: tokens.named(token_id) for token_id in added},
        adds_bos=tokens.keys.flag("ggml.add_bos_token", adds_bos),
        is_legacy=True,
    )
