import pytest

from expertmesh.mesh.latency import LATE_FACTOR, MIN_HEDGE_SECONDS, MIN_LATE_SECONDS, NUM_REMEMBERED, LatencyBook


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


def test_what_is_expected_follows_slow_calls_slowly_and_fast_ones_quickly():
    book = book_of((1, 1.0))
    book.record(1, 9.0)
    assert book.expected_seconds(1) == 3.0
    book.record(1, 1.0)
    assert book.expected_seconds(1) == 2.0
    assert book.expected_seconds(4) == 8.0


def test_a_call_is_hedged_after_what_nearly_all_took_and_not_at_once():
    assert LatencyBook().hedge_after(1) is None
    assert book_of((1, 0.0001)).hedge_after(1) == MIN_HEDGE_SECONDS
    assert book_of(*[(1, 1.0)] * 60, *[(1, 3.0)] * 5).hedge_after(1) == 3.0


def test_an_answer_that_lay_there_already_makes_nobody_slow():
    book = book_of(*[(1, 1.0)] * NUM_REMEMBERED)
    for _ in range(NUM_REMEMBERED):
        book.record(1, 50.0, waited_seconds=0.01)
    assert (book.expected_seconds(1), book.hedge_after(1)) == (1.0, 1.0)
    book.record(1, 0.5, waited_seconds=0.01)
    assert book.expected_seconds(1) == 0.75
