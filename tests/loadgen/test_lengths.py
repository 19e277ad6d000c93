import random

import pytest

from expertmesh.loadgen.lengths import LogNormal, Uniform, parse_lengths


def test_lengths_are_read_and_written():
    for text, lengths in {
        "128": Uniform(128, 128),
        "64:192": Uniform(64, 192),
        "lognormal:100:0.5": LogNormal(100.0, 0.5),
    }.items():
        assert (parse_lengths(text), str(lengths)) == (lengths, text)


@pytest.mark.parametrize(
    "text", ["", "0", "5:4", "1:2:3", "lognormal:0:1", "lognormal:5", "many", "lognormal:inf:1", "lognormal:5:1e9"]
)
def test_what_is_no_length_is_refused(text):
    with pytest.raises(ValueError, match="is no length; N, LOW:HIGH or"):
        parse_lengths(text)


@pytest.mark.parametrize("lengths", [Uniform(2, 5), LogNormal(4.0, 2.0)])
def test_lengths_stay_between_one_and_the_longest(lengths):
    rng = random.Random(0)
    drawn = [lengths.draw(rng) for _ in range(4000)]
    assert min(drawn) >= 1
    assert max(drawn) == lengths.longest


def test_half_of_lognormal_lengths_are_below_the_median():
    rng = random.Random(0)
    assert sum(LogNormal(100.0, 1.0).draw(rng) < 100 for _ in range(4000)) == pytest.approx(2000, rel=0.05)
