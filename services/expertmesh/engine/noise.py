"""Randomness of sampling, without state: a number for every seed and position. Knows integers only."""

MASK = 2**64 - 1


def noise(seed: int, position: int) -> float:
    """Return a number in [0, 1), as if drawn anew for every ``seed`` and ``position``.

    It does not matter what was drawn before, so a token comes out the same when it is computed again, in another step
    or in another batch.
    """
    return (_mix(_mix(seed) ^ position) >> 11) / 2**53


def _mix(value: int) -> int:
    """SplitMix64's step (Steele, Lea and Flood, 2014): every bit of ``value`` changes half of the result's bits."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
