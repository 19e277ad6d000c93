import pytest

from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory) -> Tokenizer:
    return Tokenizer.open(tokenizer_directory)


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "a</s>b"])
def test_text_that_looks_like_a_control_token_stays_text(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids) == text


def test_other_file_name_is_found(tokenizer_directory, tmp_path):
    content = (tokenizer_directory / "tokenizer.model").read_bytes()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(content)
    assert Tokenizer.open(tmp_path).encode("Hello") == [22557]


def test_missing_tokenizer_names_directory_and_files(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{tmp_path}.*tokenizer.model or sentencepiece.bpe.model"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x00" * 64])
def test_damaged_tokenizer_is_named(tmp_path, content: bytes):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.model"):
        Tokenizer.open(tmp_path)


def test_truncated_tokenizer_is_named(tokenizer_directory, tmp_path):
    content = (tokenizer_directory / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="tokenizer.model"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("token_id", [-1, 32000, 2**40])
def test_id_outside_the_vocabulary_is_named(tokenizer: Tokenizer, token_id: int):
    with pytest.raises(InvalidRequestError, match=f"{token_id} is outside the vocabulary of 32000"):
        tokenizer.decode([token_id])


def test_lone_surrogate_is_refused(tokenizer: Tokenizer):
    with pytest.raises(InvalidRequestError, match="character 1"):
        tokenizer.encode("a\ud800")


def test_control_and_unknown_ids_have_no_text(tokenizer: Tokenizer):
    assert [token_id for token_id in range(tokenizer.vocab_size) if not tokenizer.has_text(token_id)] == [0, 1, 2]
