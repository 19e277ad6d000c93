from collections.abc import Generator

import pytest

from expertmesh.model.turns import in_turns


class Parts:
    """Parts that note what they do."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def part(self, name: str, num_pauses: int, fails: bool = False) -> Generator[None, None, str]:
        for index in range(num_pauses):
            self.noted.append(f"{name}{index}")
            try:
                yield
            except GeneratorExit:
                self.noted.append(f"{name} closed")
                raise
        if fails:
            raise ValueError(name)
        return name


def test_parts_take_turns_and_each_returns_its_own():
    parts = Parts()
    assert in_turns([parts.part("a", 3), parts.part("b", 1), parts.part("c", 2)]) == ["a", "b", "c"]
    assert parts.noted == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_one_part_goes_on_by_itself():
    parts = Parts()
    assert in_turns([parts.part("a", 2)]) == ["a"]
    assert in_turns([parts.part("a", 0)]) == ["a"]


def test_when_one_fails_the_others_are_closed():
    parts = Parts()
    with pytest.raises(ValueError, match="b"):
        in_turns([parts.part("a", 5), parts.part("b", 1, fails=True), parts.part("c", 5)])
    assert parts.noted == ["a0", "b0", "c0", "a1", "a closed", "c closed"]
