import json
from pathlib import Path

import pytest

from expertmesh.errors import ConfigError
from expertmesh.gateway.served_names import served_names


def names(directory: Path, config: dict[str, object] | None = None, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    directory.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return served_names(directory, given)


def test_names_that_are_given_count_once_each(tmp_path):
    assert names(tmp_path, {"_name_or_path": "org/name"}, ("a", "b", "a")) == ("a", "b")


@pytest.mark.parametrize("name", ["mistralai/Mixtral-8x7B-v0.1", "a/b", "01-ai/x_y.z"])
def test_a_name_of_the_hub_is_the_models(tmp_path, name):
    assert names(tmp_path, {"_name_or_path": name}) == (name,)


@pytest.mark.parametrize(
    "name", ["/data/mixtral", "./x/y", "../x", "~/x", "a/b/c", "models/mine", "checkpoints/7", "gpt2", "", None, "a/"]
)
def test_a_path_is_no_name(tmp_path, name):
    assert names(tmp_path / "mine", {"_name_or_path": name}) == ("mine",)


def test_without_config_json_the_directory_names_the_model(tmp_path):
    assert names(tmp_path / "mine") == ("mine",)


@pytest.mark.parametrize("kind", ["awq", "GPTQ", "bf16", "bfloat16", "fp8", "int4", "4bit", "4-bit", "gptq.gguf"])
def test_a_directory_that_says_how_weights_are_stored_is_named_behind_the_one_around_it(tmp_path, kind):
    assert names(tmp_path / "tiny-mixtral" / kind) == (f"tiny-mixtral-{kind.removesuffix('.gguf')}",)
    assert served_names(Path("/awq"), ()) == ("awq",)


@pytest.mark.parametrize("name", ["awq-mixtral", "mixtral-awq", "8x7b", "7b"])
def test_a_directory_that_says_more_is_the_name(tmp_path, name):
    assert names(tmp_path / "models" / name) == (name,)


@pytest.mark.parametrize(
    ("repository", "name"),
    [("models--org--name", "org/name"), ("models--org--a--b", "org/a--b"), ("models--name", "name")],
)
def test_a_snapshot_is_what_it_was_downloaded_as(tmp_path, repository, name):
    snapshot = tmp_path / repository / "snapshots" / "0f3a"
    assert names(snapshot, {"_name_or_path": "org/base"}) == (name,)
    (tmp_path / "link").symlink_to(snapshot)
    assert names(tmp_path / "link") == (name,)


@pytest.mark.parametrize("name", ["", " ", "a b"])
def test_a_name_is_one_word(tmp_path, name):
    with pytest.raises(ConfigError, match=f"--served-model-name is {name!r}"):
        names(tmp_path, {}, ("a", name))
