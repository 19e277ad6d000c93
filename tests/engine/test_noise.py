import numpy as np
import pytest

from expertmesh.engine.noise import noise

COUNT = 20_000
BINS = 100
# A chi-square of 99 degrees of freedom is above this once in ten thousand times.
MOST = 161.3


def chi_square(values: np.ndarray) -> float:
    counts = np.histogram(values, bins=BINS, range=(0, 1))[0]
    expected = len(values) / BINS
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("seed", "position", "value"),
    [
        (0, 0, 0.6524484863740322),
        (1, 0, 0.36818951565166946),
        (0, 1, 0.03401170130434639),
        (2**64 - 1, 32767, 0.028805574862428185),
    ],
)
def test_values_never_change(seed: int, position: int, value: float):
    assert noise(seed, position) == value


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**63, 2**64 - 1])
def test_positions_of_a_seed_are_spread_evenly(seed: int):
    assert chi_square(np.array([noise(seed, position) for position in range(COUNT)])) < MOST


@pytest.mark.parametrize("position", [0, 1, 4096])
def test_seeds_at_a_position_are_spread_evenly(position: int):
    values = np.array([noise(seed, position) for seed in range(COUNT)])
    assert chi_square(values) < MOST
    assert values.min() >= 0
    assert values.max() < 1


@pytest.mark.parametrize("step", [1, 2, 64])
def test_neighbours_know_nothing_of_each_other(step: int):
    by_position = np.array([noise(3, position) for position in range(COUNT + step)])
    by_seed = np.array([noise(seed, 3) for seed in range(COUNT + step)])
    for values in (by_position, by_seed):
        # Sums of two independent numbers modulo 1 are even again, and what depends on the first shows in the second.
        first, second = values[:-step], values[step:]
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / COUNT**0.5
        assert chi_square((second - first) % 1) < MOST
        assert chi_square((second + first) % 1) < MOST


def test_seed_and_position_are_not_interchangeable():
    values = {noise(seed, position) for seed in range(100) for position in range(100)}
    assert len(values) == 100 * 100
