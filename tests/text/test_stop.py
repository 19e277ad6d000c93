from hypothesis import given
from hypothesis import strategies as st

from expertmesh.text.stop import StopMatcher


def run(
    stops: list[str], pieces: list[str], num_unstoppable: int = 0, includes_stop: bool = False
) -> tuple[str, str | None]:
    """Push the pieces until a stop string is matched; returns the text passed on and the match.

    The first ``num_unstoppable`` may not stop.
    """
    matcher = StopMatcher(stops, includes_stop)
    passed = ""
    for number, piece in enumerate(pieces):
        passed += matcher.push(piece, may_stop=number >= num_unstoppable)
        if matcher.matched is not None:
            return passed, matcher.matched
    return passed + matcher.flush(), None


def test_a_stop_across_pieces_is_never_passed_on():
    assert run(["END"], ["one E", "N", "D two"]) == ("one ", "END")


def test_text_that_only_begins_like_a_stop_comes_later():
    matcher = StopMatcher(["END"])
    assert matcher.push("an E") == "an "
    assert matcher.push("N") == ""
    assert matcher.push("T") == "ENT"
    assert matcher.flush() == ""


def test_the_first_stop_in_the_text_wins():
    assert run(["bc", "ab"], ["xabc"]) == ("x", "ab")
    assert run(["cd", "abcd"], ["abcd"]) == ("", "abcd")


def test_without_stops_text_passes_at_once():
    assert StopMatcher([]).push("anything") == "anything"


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.lists(st.text("ab", max_size=4), max_size=8))
def test_any_cut_of_a_text_gives_what_the_whole_text_gives(stops: list[str], pieces: list[str]):
    text = "".join(pieces)
    passed, matched = run(stops, pieces)
    if matched is None:
        assert passed == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(passed + matched)
        assert not any(stop in passed for stop in stops)


STOPS = st.lists(st.text("ab", min_size=1, max_size=3), max_size=3)
PIECES = st.lists(st.text("ab", max_size=4), max_size=8)


@given(STOPS, PIECES, st.integers(0, 9))
def test_the_first_stop_that_is_complete_late_enough_ends_the_text(stops: list[str], pieces: list[str], num: int):
    text, num_free = "".join(pieces), len("".join(pieces[:num]))
    ends = [len("".join(pieces[: index + 1])) for index in range(num, len(pieces))]
    places = {(text.find(stop, max(0, num_free - len(stop) + 1)), stop) for stop in stops}
    # With each piece, stop strings that are complete with it are looked for; of those, the first in the text counts.
    complete = [{(at, stop) for at, stop in places if at >= 0 and at + len(stop) <= end} for end in ends]
    first = next((min(found) for found in complete if found), None)
    expected = (text, None) if first is None else (text[: first[0]], first[1])
    assert run(stops, pieces, num) == expected
    included = (text, None) if first is None else (text[: first[0]] + first[1], first[1])
    assert run(stops, pieces, num, includes_stop=True) == included
