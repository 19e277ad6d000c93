import json

import pytest

from expertmesh.errors import CheckpointError
from expertmesh.text.pieces import NamedToken
from expertmesh.text.tokenizer_config import read_tokenizer_config


def test_a_checkpoint_may_say_nothing(tmp_path):
    config = read_tokenizer_config(tmp_path)
    assert (config.roles, config.added, config.adds_bos, config.is_legacy) == ({}, {}, None, False)


def test_newer_files_count_more_than_older_ones(tmp_path):
    (tmp_path / "added_tokens.json").write_text('{"<a>": 7, "<b>": 8, "<c>": 9}')
    (tmp_path / "special_tokens_map.json").write_text(
        '{"eos_token": "<a>", "bos_token": {"content": "<b>"}, "additional_special_tokens": ["<c>"]}'
    )
    entry = {"content": "<A>", "special": False, "lstrip": True, "rstrip": True}
    values = {"eos_token": "<A>", "added_tokens_decoder": {"7": entry}, "add_bos_token": False, "legacy": True}
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(values))
    config = read_tokenizer_config(tmp_path)
    assert config.roles == {"eos_token": "<A>", "bos_token": "<b>"}
    assert config.added == {
        7: NamedToken(7, "<A>", False, path, takes_left=True, takes_right=True),
        8: NamedToken(8, "<b>", True, tmp_path / "added_tokens.json"),
        9: NamedToken(9, "<c>", True, tmp_path / "added_tokens.json"),
    }
    assert (config.adds_bos, config.is_legacy) == (False, True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", {"eos_token": 2}, "eos_token is 2; a text would be right"),
        ("tokenizer_config.json", {"add_bos_token": "yes"}, "add_bos_token is 'yes'; true or false would be right"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, r"added_tokens_decoder is \[1\]; an object would"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "decoder.x is 'x'; an integer"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": "a"}}, "decoder.5 is 'a'; an object with a text"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": ""}}}, "an object with a text"),
        ("tokenizer_config.json", {"extra_special_tokens": 5}, "extra_special_tokens is 5; a list would be right"),
        ("added_tokens.json", {"<a>": -1}, "the id of <a> is -1; an integer from 0 on would be right"),
        ("special_tokens_map.json", {"bos_token": {"content": None}}, "bos_token is .*; a text would be right"),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_value(tmp_path, file, content, message):
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{file}: .*{message}"):
        read_tokenizer_config(tmp_path)
