import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.cli.ranges import format_ranges, parse_ranges
from expertmesh.errors import ConfigError


def test_numbers_and_ranges_are_merged():
    assert parse_ranges("5,0, 3-4,3") == (0, 3, 4, 5)


@given(st.sets(st.integers(0, 40), min_size=1))
def test_formatting_is_the_inverse_of_parsing(numbers: set[int]):
    assert parse_ranges(format_ranges(tuple(sorted(numbers)))) == tuple(sorted(numbers))


@pytest.mark.parametrize("part", ["", "x", "1-", "-1", "3-2", "1.5"])
def test_wrong_part_is_named(part: str):
    with pytest.raises(ConfigError, match=repr(part)):
        parse_ranges(f"0,{part}")
