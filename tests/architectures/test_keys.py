import pytest
from published import FILE

from expertmesh.architectures.keys import Keys
from expertmesh.errors import CheckpointError


def keys(**values: object) -> Keys:
    return Keys(values, FILE)


def test_null_is_absent():
    assert "a" not in keys(a=None)
    assert (keys(a=None).count("a", 3), keys(a=None).number("a", 0.5), keys(a=None).flag("a", True)) == (3, 0.5, True)
    assert keys(a=None).token_ids("a", 3) == ()
    assert list(keys(a=None, b=0)) == ["b"]


def test_a_section_is_the_one_that_is_there():
    both = keys(older={"a": 1}, newer={"a": 2}, empty={})
    assert both.section("newer").count("a") == 2
    assert both.section("empty", "older").count("a") == 1
    assert "a" not in both.section("neither")
    with pytest.raises(CheckpointError) as raised:
        both.section("newer", "older")
    assert str(raised.value) == (
        f"{FILE}: older is {{'a': 1}}; the same as newer, {{'a': 2}}, or neither, would be right"
    )
    with pytest.raises(CheckpointError) as raised:
        both.section("older").word("a", "b")
    assert str(raised.value) == f"{FILE}: older.a is 1; a word would be right"


def test_two_names_for_one_thing_must_not_disagree():
    both = keys(a=1, b=1, c=2)
    assert keys(a="GEMM", b="gemm").one_of("a", "b") == "a"
    assert (both.one_of("a", "b"), both.one_of("d", "b"), both.one_of("d", "e")) == ("a", "b", "d")
    with pytest.raises(CheckpointError, match="c is 2; the same as a, 1, or neither, would be right"):
        both.one_of("a", "b", "c")


def test_errors_have_the_names_that_the_file_has():
    with pytest.raises(CheckpointError, match="json: dim is 0; a positive integer would be right"):
        Keys({"hidden_size": 0}, FILE, {"hidden_size": "dim"}).count("hidden_size")


def test_of_a_long_value_the_beginning_is_shown():
    with pytest.raises(CheckpointError) as raised:
        keys(width=[0] * 1000).count("width")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("value", [-1, 32000, [2, 40000], True, "</s>", [[2]], [2, None]])
def test_what_is_no_token_id_is_named(value: object):
    with pytest.raises(CheckpointError, match="eos is .*would be right"):
        keys(eos=value).token_ids("eos", 32000)


def test_what_memory_cannot_count_is_named():
    with pytest.raises(CheckpointError, match="width is 2147483648; an integer of at most 2147483647 would be right"):
        keys(width=2**31).count("width")


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", [], float("nan")])
def test_what_is_no_positive_integer_is_named(value: object):
    with pytest.raises(CheckpointError) as raised:
        keys(width=value).count("width")
    assert str(raised.value) == f"{FILE}: width is {value!r}; a positive integer would be right"


@pytest.mark.parametrize("value", [0, -1.5, True, "1", float("inf"), float("nan"), 10**50, 1e-320])
def test_what_is_no_positive_number_is_named(value: object):
    with pytest.raises(CheckpointError) as raised:
        keys(eps=value).number("eps", 1.0)
    assert str(raised.value) == f"{FILE}: eps is {value!r}; a positive number would be right"
