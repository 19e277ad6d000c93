import math

import pytest

from expertmesh.counting.moving_mean import MovingMean


def test_a_level_is_approached_by_the_rule_of_its_window():
    mean = MovingMean(window_seconds=10, now=0)
    mean.change(4, now=0)
    assert mean.at(0) == 0
    assert mean.at(10) == pytest.approx(4 * (1 - 1 / math.e))
    assert mean.at(1000) == pytest.approx(4)


def test_changes_add_up_and_looking_changes_nothing():
    looked, unlooked = (MovingMean(window_seconds=10, now=0) for _ in range(2))
    for mean in (looked, unlooked):
        mean.change(4, now=0)
        if mean is looked:
            mean.at(3)
        mean.change(-3, now=5)
    assert looked.at(7) == unlooked.at(7)
    assert looked.at(1000) == pytest.approx(1)
