import json

import pytest
from chat_files import CHATML, copy_version, write_chatml
from checkpoints import CONFIG
from gguf_files import write_gguf

from expertmesh.errors import CheckpointError
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.text_files import read_text_files


def write_model(directory, vocab_size: int) -> GatewayConfig:
    """Write all of a checkpoint that says how text is read: its configuration."""
    (directory / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": vocab_size}))
    return GatewayConfig(model=directory)


def test_tokenizer_and_template_are_those_of_the_checkpoint(tmp_path):
    config = write_model(write_chatml(tmp_path), 32_064)
    text = read_text_files(config)
    assert text.tokenizer.vocab_size == 32_064
    assert text.reason == f"chat_template of {tmp_path}/tokenizer_config.json"


def test_the_template_of_the_settings_comes_first(tmp_path):
    (tmp_path / "mine").write_text(CHATML)
    config = write_model(copy_version(tmp_path, 3), 32_768)
    assert read_text_files(config).reason.startswith("[INST] as control tokens")
    ours = GatewayConfig(model=tmp_path, chat_template=tmp_path / "mine")
    assert read_text_files(ours).reason == f"{tmp_path}/mine, as --chat-template says"


def test_a_model_too_small_for_its_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has 32002 tokens, but vocab_size of the model is 32000"):
        read_text_files(write_model(write_chatml(tmp_path), 32_000))


def test_a_gguf_file_says_all_of_it(tmp_path):
    model = write_gguf(tmp_path, "F16", num_hidden_layers=1, num_local_experts=2).directory
    text = read_text_files(GatewayConfig(model=model))
    assert (text.tokenizer.size, text.tokenizer.bos_id, text.tokenizer.eos_id) == (512, 1, 2)
    assert text.reason.startswith("[INST] as text")
