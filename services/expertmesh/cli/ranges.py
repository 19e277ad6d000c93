"""Sets of numbers as people write them: 0,3-5."""

from expertmesh.errors import ConfigError


def parse_ranges(text: str) -> tuple[int, ...]:
    """Read ``0,3-5`` as (0, 3, 4, 5), ascending; ConfigError names the part that is no number or range."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ConfigError(f"{part.strip()!r} in {text!r} is not a number or an ascending range; write 0,3-5")
        numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def format_ranges(numbers: tuple[int, ...]) -> str:
    """Write (0, 3, 4, 5) as ``0,3-5``; the inverse of ``parse_ranges``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
