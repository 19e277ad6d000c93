import random

from expertmesh.discovery.backoff import Backoff


def pauses(backoff: Backoff, count: int) -> list[float]:
    drawn = []
    for seed in range(count):
        backoff = backoff.after(0.0)
        drawn.append(backoff.seconds(random.Random(seed)))
    return drawn


def test_pauses_grow_from_half_a_second_and_jitter_only_lengthens_them():
    expected = [0.5, 2, 8, 30, 30, 30]
    for pause, least in zip(pauses(Backoff(), 6), expected, strict=True):
        assert least <= pause <= 1.5 * least
    assert Backoff().seconds(random.Random(0)) == 0


def test_ten_minutes_without_a_server_are_at_most_one_attempt_in_thirty_seconds_once_backed_off():
    drawn = pauses(Backoff(), 3000)
    assert min(drawn[3:]) >= 30
    assert len({round(pause, 6) for pause in drawn[3:]}) > 100


def test_what_went_well_for_long_is_forgiven_and_a_short_success_is_not():
    backoff = Backoff(5)
    assert backoff.after(31.0) == Backoff(1)
    assert backoff.after(29.0) == backoff.after(-1.0) == Backoff(6)


def test_ten_minutes_without_a_server_see_no_more_than_twenty_attempts_on_average():
    def num_attempts(seed: int) -> int:
        rng, backoff, seconds, count = random.Random(seed), Backoff(), 0.0, 0
        while seconds < 600:
            count += 1
            backoff = backoff.after(0.0)
            seconds += backoff.seconds(rng)
        return count

    assert sum(map(num_attempts, range(200))) / 200 <= 20
