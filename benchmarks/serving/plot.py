"""A picture of runs: how TTFT, TPOT and ITL are spread. Needs matplotlib, the extra ``bench``."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from serving.client import Answer
from serving.metrics import gaps, tpot, ttft
from serving.pacing import Run

PANELS: dict[str, Callable[[Answer], list[float]]] = {
    "TTFT": lambda answer: [ttft(answer)],
    "TPOT": lambda answer: [tpot(answer)],
    "ITL": gaps,
}
INCHES = (12, 4)


def plot(title: str, runs: Sequence[Run], path: Path) -> None:
    """Write a PNG with a cumulative curve per server and panel; without matplotlib, say so and write none."""
    if find_spec("matplotlib") is None:
        print(f"no plot in {path}: matplotlib is missing; pip install 'expertmesh[bench]'")
        return
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
    figure.savefig(path)
