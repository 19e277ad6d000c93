import logging

import pytest
from published import FILE
from transformers import AutoConfig

from expertmesh.architectures import base
from expertmesh.architectures.key_rules import check_keys, honoured, not_done, nothing, refused
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.registry import ARCHITECTURES, read_model
from expertmesh.errors import CheckpointError

THEIRS = {name: AutoConfig.for_model(family.model_type).to_dict() for name, family in ARCHITECTURES.items()}
RULES = (honoured("a"), refused("reason", "b", unless=(1,)), refused("", "c"), nothing("it is about running", "d"))


def test_what_is_allowed_passes_and_says_nothing(caplog):
    check_keys(Keys({"a": object(), "b": 1, "c": None, "d": []}, FILE), RULES)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b": 2}, "b 2 is not supported (reason); supported: 1"),
        ({"b": []}, "b [] is not supported (reason); supported: 1"),
        ({"c": False}, "c False is not supported; supported: leaving it out"),
    ],
)
def test_what_is_refused_is_named(values, message):
    with pytest.raises(CheckpointError) as raised:
        check_keys(Keys(values, FILE), RULES)
    assert str(raised.value) == f"{FILE}: {message}"


def test_keys_that_nobody_knows_are_logged(caplog):
    with caplog.at_level(logging.WARNING):
        check_keys(Keys({"a": 1, "e": 2, "f": 3}, FILE), RULES)
    assert f"{FILE}: e, f: not known, so what they ask for is not done" in caplog.text


def test_keys_that_are_not_done_are_logged_where_they_are(caplog):
    rules = (not_done("nobody needs it", "a", "b"),)
    with caplog.at_level(logging.WARNING):
        check_keys(Keys({"a": {"x": 1}, "b": None}, FILE), rules)
    assert [record.getMessage() for record in caplog.records] == [f"{FILE}: a: not done: nobody needs it"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_key_has_one_rule(name):
    keys = [key for rule in ARCHITECTURES[name].keys for key in rule.keys]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_knows_no_key_without_a_rule(name):
    keys = {key for rule in ARCHITECTURES[name].keys for key in rule.keys}
    assert set(THEIRS[name]) - keys == set()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_left_out_means_what_it_means_to_transformers(name):
    theirs = THEIRS[name] | THEIRS[name]["rope_parameters"]
    defaults = ARCHITECTURES[name].defaults
    assert defaults == {key: theirs[key] for key in defaults}
    assert set(base.DEFAULTS) < set(defaults)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_transformers_writes_by_itself_is_read(name):
    """The defaults of everything, sizes too."""
    config = {**THEIRS[name], "architectures": [name]}
    model = read_model(config, FILE)
    short = {key: value for key, value in config.items() if key not in ARCHITECTURES[name].defaults}
    assert read_model({key: value for key, value in short.items() if key != "rope_parameters"}, FILE) == model
