import pytest
from published import FILE

from expertmesh.architectures.keys import Keys
from expertmesh.errors import CheckpointError


def keys(**values: object) -> Keys:
    return Keys(values, FILE)


def test_null_is_absent():
    assert "a" not in keys(a=None)
    assert (keys(a=None).count("a", 3), keys(a=None).number("a", 0.5), keys(a=None).flag("a", True)) == (3, 0.5, True)
    assert keys(a=None).token_ids("a") == ()
    keys(a=None).require("a", "only this")


def test_a_section_is_the_first_that_is_there():
    both = keys(older={"a": 1}, newer={"a": 2}, empty={})
    assert both.section("newer", "older").count("a") == 2
    assert both.section("empty", "older").count("a") == 1
    assert "a" not in both.section("neither")


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", [], float("nan")])
def test_what_is_no_positive_integer_is_named(value: object):
    with pytest.raises(CheckpointError) as raised:
        keys(width=value).count("width")
    assert str(raised.value) == f"{FILE}: width is {value!r}; a positive integer would be right"


@pytest.mark.parametrize("value", [0, -1.5, True, "1", float("inf"), float("nan")])
def test_what_is_no_positive_number_is_named(value: object):
    with pytest.raises(CheckpointError) as raised:
        keys(eps=value).number("eps", 1.0)
    assert str(raised.value) == f"{FILE}: eps is {value!r}; a positive number would be right"
