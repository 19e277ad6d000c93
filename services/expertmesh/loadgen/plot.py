"""A picture of runs: how their times are spread. Needs matplotlib, of the extra ``bench``."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from expertmesh.errors import ConfigError
from expertmesh.loadgen.client import Answer
from expertmesh.loadgen.pacing import Run
from expertmesh.loadgen.summary import e2e, gaps, tpot, ttft

PANELS: dict[str, Callable[[Answer], list[float]]] = {
    "TTFT": lambda answer: [ttft(answer)],
    "TPOT": lambda answer: [tpot(answer)] if answer.output_tokens > 1 else [],
    "ITL": gaps,
    "E2E": lambda answer: [e2e(answer)],
}
INCHES = (14, 4)


def check_can_plot() -> None:
    """Refuse to measure for a picture that cannot be drawn; ConfigError without matplotlib."""
    if find_spec("matplotlib") is None:
        raise ConfigError("a plot needs matplotlib, which is not installed: pip install 'expertmesh[bench]'")


def plot(title: str, runs: Sequence[Run], path: Path) -> None:
    """Write a PNG with a cumulative curve per server and panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    figure.supylabel("share of answers (ITL: of gaps)")
    for axes, (name, seconds_of) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        for run in runs:
            values = [seconds for answer in run.answers if answer.error is None for seconds in seconds_of(answer)]
            if values:
                axes.ecdf([1000 * value for value in values], label=run.name)
        axes.set_xlabel(f"{name}, ms")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, format="png")
