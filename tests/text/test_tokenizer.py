import pytest
from chat_files import copy_version, write_chatml, write_config, write_json

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


def test_missing_tokenizer_names_directory_and_files(tmp_path):
    with pytest.raises(
        CheckpointError,
        match=rf"{tmp_path} holds no tokenizer; one of tokenizer.model, .*, tekken.json would be right",
    ):
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


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "tokenizer.model.v1", "tokenizer.model.v3"])
def test_a_model_of_sentence_piece_is_found_by_other_names(tokenizer_directory, tmp_path, name: str):
    (tmp_path / name).write_bytes((tokenizer_directory / "tokenizer.model").read_bytes())
    assert Tokenizer.open(tmp_path).encode("Hello") == [22557]


def test_raw_text_gets_the_begin_id_only(tokenizer: Tokenizer):
    assert tokenizer.encode_prompt("Hello") == [1, 22557]
    assert tokenizer.encode_prompt("") == [1]


@pytest.mark.parametrize("write", [copy_version, lambda directory: write_json(directory, "metaspace")])
def test_raw_text_gets_no_begin_id_where_the_checkpoint_says_so(tmp_path, write):
    write(tmp_path)
    write_config(tmp_path, bos_token="<s>", add_bos_token=False)
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.encode_prompt("Hello") == tokenizer.encode("Hello")


class TestWithMoreIds:
    """ChatML's two tokens behind the 32,000 of the published model, in a model of 32,064."""

    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls, tmp_path_factory) -> Tokenizer:
        return Tokenizer.open(write_chatml(tmp_path_factory.mktemp("tokenizer")), 32_064)

    def test_special_ones_and_ids_without_a_token_have_no_text(self, tokenizer: Tokenizer):
        assert tokenizer.decode([22557, 32_000, 32_063, 1526, 32_050]) == "Hello world"
        assert tokenizer.token_bytes(32_000) == tokenizer.token_bytes(32_063) == b""
        assert not any(tokenizer.has_text(token_id) for token_id in (32_000, 32_002, 32_063))

    def test_others_have_the_text_that_they_are_written_by(self, tokenizer: Tokenizer):
        assert tokenizer.decode([22557, 32_001, 1526]) == "Hello<|im_start|> world"
        assert tokenizer.token_bytes(32_001) == b"<|im_start|>"
        assert tokenizer.has_text(32_001)

    def test_each_id_has_a_name(self, tokenizer: Tokenizer):
        names = [tokenizer.piece(token_id) for token_id in (32_000, 32_001, 32_063)]
        assert names == ["<|im_end|>", "<|im_start|>", "<32063>"]

    def test_ids_behind_the_model_are_refused(self, tokenizer: Tokenizer):
        with pytest.raises(InvalidRequestError, match="32064 is outside the vocabulary of 32064"):
            tokenizer.decode([32_064])

    def test_the_end_is_what_the_configuration_says(self, tokenizer: Tokenizer):
        assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 32_000)

    @pytest.mark.parametrize("text", ["<|im_end|>", "a<|im_start|>", "</s><s>"])
    def test_text_that_looks_like_them_stays_text(self, tokenizer: Tokenizer, text: str):
        assert max(tokenizer.encode(text)) < 32_000
        assert not {0, 1, 2} & set(tokenizer.encode(text))


@pytest.mark.parametrize(
    ("write", "vocab_size", "message"),
    [
        (
            copy_version,
            31_999,
            r"tokenizer.model: with 31999, the tokenizer has 32000 tokens, .* the model is 31999; a",
        ),
        (write_chatml, 32_000, r"tokenizer_config.json: with 32001, the tokenizer has 32002 tokens, .* is 32000; a"),
        (
            lambda directory: write_json(directory, "prepend"),
            100,
            r"tokenizer.json: with \d+, .* 487 tokens, .* is 100;",
        ),
    ],
)
def test_a_tokenizer_for_a_larger_model_is_refused(tmp_path, write, vocab_size: int, message: str):
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.open(write(tmp_path), vocab_size)


def test_added_tokens_of_older_checkpoints_are_read(tmp_path):
    copy_version(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 32000, "<tool>": 32001}')
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    tokenizer = Tokenizer.open(tmp_path)
    assert (tokenizer.size, tokenizer.eos_id) == (32_002, 32_000)
    assert tokenizer.decode([32_000, 32_001]) == "<tool>"


def test_a_role_without_a_token_is_named(tmp_path):
    write_config(copy_version(tmp_path), eos_token="<|end|>")
    with pytest.raises(
        CheckpointError, match=r"tokenizer_config.json: eos_token is '<\|end\|>', which .*tokenizer.model"
    ):
        Tokenizer.open(tmp_path)
