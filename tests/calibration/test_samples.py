import pytest

from expertmesh.calibration.samples import read_samples
from expertmesh.errors import ConfigError
from expertmesh.text.tokenizer import Tokenizer

TEXT = "The gate sends every token to two of eight experts. " * 40


@pytest.fixture
def tokenizer(tokenizer_directory):
    return Tokenizer.open(tokenizer_directory)


@pytest.mark.parametrize(("max_tokens", "max_length"), [(100, 32), (100, 4096), (32, 33), (10_000, 100)])
def test_the_first_tokens_come_in_sequences_that_begin_with_bos(tmp_path, tokenizer, max_tokens, max_length):
    path = tmp_path / "text"
    path.write_text(TEXT)
    sequences = read_samples(path, max_tokens, tokenizer, max_length)
    assert all(sequence[0] == tokenizer.bos_id for sequence in sequences)
    assert {len(sequence) for sequence in sequences[:-1]} <= {max_length}
    assert len(sequences[-1]) <= min(max_length, 512)
    text = [token for sequence in sequences for token in sequence[1:]]
    assert text == tokenizer.encode(TEXT)[:max_tokens]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text has 0 tokens; at least 32 would be right"),
        (b"Too short.", "text has 3 tokens; at least 32"),
        (b"\xff\xfe" * 100, "cannot read calibration text .*text: 'utf-8' codec"),
        (None, "cannot read calibration text .*No such file"),
    ],
)
def test_a_text_of_no_use_is_named(tmp_path, tokenizer, content, message):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_samples(path, 2048, tokenizer, 512)
