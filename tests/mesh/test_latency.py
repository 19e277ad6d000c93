import pytest

from expertmesh.mesh.latency import LATE_FACTOR, MIN_LATE_SECONDS, NUM_REMEMBERED, LatencyBook


def book_of(*calls: tuple[int, float]) -> LatencyBook:
    book = LatencyBook()
    for num_rows, seconds in calls:
        book.record(num_rows, seconds)
    return book


def test_nothing_is_late_for_a_replica_that_has_not_answered():
    assert LatencyBook().late_after(1) is None


def test_an_answer_is_late_after_many_times_the_median_of_its_size():
    book = book_of(*[(4, 1.0)] * 40, *[(7, 9.0)] * 20, *[(512, 30.0)] * 9)
    assert [book.late_after(num_rows) for num_rows in (4, 5, 7)] == [LATE_FACTOR] * 3
    assert book.late_after(900) == 30 * LATE_FACTOR


def test_but_never_before_the_time_that_a_busy_machine_may_lose():
    assert book_of((1, 0.0001)).late_after(1) == MIN_LATE_SECONDS


@pytest.mark.parametrize(("num_rows", "times"), [(1, 1), (16, 1), (32, 2), (255, 8)])
def test_a_size_not_seen_grows_from_the_next_smaller_one(num_rows, times):
    assert book_of((17, 1.0)).late_after(num_rows) == LATE_FACTOR * times


def test_it_follows_a_replica_that_becomes_slower():
    book = book_of(*[(1, 1.0)] * NUM_REMEMBERED, *[(1, 3.0)] * NUM_REMEMBERED)
    assert book.late_after(1) == 3 * LATE_FACTOR
