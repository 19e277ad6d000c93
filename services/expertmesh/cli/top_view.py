"""One picture of ``expertmesh top``, at the size of the terminal. Knows loads and rich, not where they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from expertmesh.cli.ranges import format_ranges

if TYPE_CHECKING:
    from expertmesh.client import ExpertLoad, LoadRates, LoadUpdate, ReplicaLoad

HEAT = "·░▒▓█"
HEAT_STYLES = ("grey30", "blue", "cyan", "yellow", "red")
# Of the even share, what is still one step cooler: an expert with twice of it is as hot as the picture gets.
HEAT_STEPS = (0.25, 0.75, 1.25, 2.0)
MAX_CELL_WIDTH = 3
HELP = "q ends"
# Title, gateway, blank, header, legend, and a blank below.
NUM_FIXED_LINES = 6


@dataclass(frozen=True)
class ExpertRow:
    """What is shown of one expert; ``layers`` are its shares of each layer's rows, over the even share."""

    load: "ExpertLoad"
    tokens_per_second: float
    share: float
    layers: tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A column: what it says of an expert, and how wide the terminal must be for it."""

    title: str
    text: Callable[[ExpertRow], str | Text]
    min_width: int = 0


COLUMNS = (
    Column("expert", lambda row: str(row.load.expert)),
    Column("rows/s", lambda row: f"{row.tokens_per_second:,.0f}"),
    Column("share", lambda row: f"{row.share:.1%}"),
    Column("queue", lambda row: _number(row.load.queue_rows), 60),
    Column("flying", lambda row: _number(row.load.inflight_rows), 100),
    Column("demand", lambda row: f"{row.load.demand_rows:.1f}", 70),
    Column("p50", lambda row: duration(row.load.latency_p50_ns), 50),
    Column("p99", lambda row: duration(row.load.latency_p99_ns), 80),
    Column("again", lambda row: _number(row.load.retries), 110),
    Column("replicas", lambda row: _replicas(row.load)),
)


@dataclass(frozen=True)
class Frame:
    """Everything there is to see: the gateway in two lines, the experts with their layers, the replicas.

    A live one is as high as the terminal; one that is printed is as long as it needs to be.
    """

    title: str
    update: "LoadUpdate | None"
    error: Exception | None = None
    is_live: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw as much as fits."""
        yield from self._head()
        if self.update is None:
            return
        rows = expert_rows(self.update)
        num_lines = console.height - NUM_FIXED_LINES if self.is_live else len(rows) + len(self.update.load.replicas) + 4
        yield from _draw_experts(rows, max(1, num_lines), options.max_width)
        yield Text(_legend(self.update.rates), style="dim", no_wrap=True, overflow="ellipsis")
        num_left = num_lines - len(rows) - 2
        if self.update.load.replicas and num_left > 0:
            yield Text()
            yield _replicas_table(self.update.load.replicas, num_left, options.max_width)

    def _head(self) -> RenderResult:
        line = Text(self.title, style="bold", no_wrap=True, overflow="ellipsis")
        yield line.append(f"   {HELP}", style="not bold dim") if self.is_live else line
        if self.error is not None:
            yield Text(f"{self.error}; trying again", style="red", no_wrap=True, overflow="ellipsis")
        elif self.update is not None:
            yield _gateway_line(self.update)
        yield Text()


def expert_rows(update: "LoadUpdate") -> list[ExpertRow]:
    """Join loads and rates; where nothing happened since the last update, shares are those since the start."""
    experts, rates = update.load.experts, update.rates
    if rates is None or not _is_busy(rates):
        layers = _heat([expert.tokens_by_layer for expert in experts])
        return [ExpertRow(load, 0.0, load.share, heat) for load, heat in zip(experts, layers, strict=True)]
    layers = _heat([rate.tokens_per_second_by_layer for rate in rates.experts])
    return [
        ExpertRow(load, rate.tokens_per_second, rate.share, heat)
        for load, rate, heat in zip(experts, rates.experts, layers, strict=True)
    ]


def heat_strip(layers: Sequence[float], width: int) -> Text:
    """Draw a cell per layer, wider where there is room, or one per few neighbours where ``width`` is smaller."""
    if not layers or width < 1:
        return Text()
    num_cells = min(width, len(layers))
    edges = [cell * len(layers) // num_cells for cell in range(num_cells + 1)]
    cell_width = min(MAX_CELL_WIDTH, width // num_cells)
    strip = Text()
    for start, end in zip(edges, edges[1:], strict=False):
        level = _heat_level(sum(layers[start:end]) / (end - start))
        strip.append(HEAT[level] * cell_width, style=HEAT_STYLES[level])
    return strip


def duration(nanoseconds: int) -> str:
    """Write a duration with two or three digits and its unit; a dash before the first."""
    if nanoseconds == 0:
        return "-"
    for unit, size in (("s", 10**9), ("ms", 10**6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1000:.0f} µs"


def _is_busy(rates: "LoadRates") -> bool:
    return any(expert.tokens_per_second for expert in rates.experts)


def _heat(by_expert: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Divide each count [E][L] by the mean of its layer; 0 for a layer without any."""
    means = [sum(layer) / len(layer) for layer in zip(*by_expert, strict=True)]
    return [
        tuple(count / mean if mean else 0.0 for count, mean in zip(counts, means, strict=True)) for counts in by_expert
    ]


def _heat_level(value: float) -> int:
    return sum(value >= step for step in HEAT_STEPS)


def _number(value: int) -> str:
    return f"{value:,}" if value else "·"


def _replicas(load: "ExpertLoad") -> Text:
    num_others = sum(load.replicas.values()) - load.replicas.get("ready", 0)
    text = Text(f"{load.ready_replicas}", style="bold red" if load.ready_replicas == 0 else "green")
    return text.append(f" +{num_others} not ready", style="yellow") if num_others else text


def _gateway_line(update: "LoadUpdate") -> Text:
    gateway, rates = update.load.gateway, update.rates
    parts = [f"running {gateway.running}", f"waiting {gateway.waiting}", f"KV {gateway.kv_cache_usage:.0%}"]
    if rates is not None:
        parts += [
            f"{rates.generation_tokens_per_second:,.0f} tokens/s",
            f"prompt {rates.prompt_tokens_per_second:,.0f} tokens/s",
        ]
    if gateway.prefix_cache_query_tokens:
        known = gateway.prefix_cache_hit_tokens / gateway.prefix_cache_query_tokens
        parts.append(f"known prompts {known:.0%}")
    if gateway.preemptions:
        parts.append(f"preempted {gateway.preemptions:,}")
    if update.load.balancedness:
        busy = rates is not None and _is_busy(rates)
        parts.append(f"balance {rates.balancedness if rates and busy else update.load.balancedness:.2f}")
    return Text(" · ".join(parts), no_wrap=True, overflow="ellipsis")


def _draw_experts(rows: Sequence[ExpertRow], num_lines: int, width: int) -> RenderResult:
    """Draw the experts in order, or where there is no room for all the busiest first."""
    if len(rows) <= num_lines:
        yield _experts_table(rows, width)
        return
    num_shown = max(1, num_lines - 1)
    yield _experts_table(sorted(rows, key=lambda row: -row.share)[:num_shown], width)
    if num_lines > 1:
        yield Text(f"and {len(rows) - num_shown} experts with less", style="dim", no_wrap=True, overflow="ellipsis")


def _experts_table(rows: Sequence[ExpertRow], width: int) -> Group:
    columns = [column for column in COLUMNS if width >= column.min_width]
    texts = [[column.text(row) for column in columns] for row in rows]
    used = sum(
        2 + max(len(column.title), *(len(cells[index]) for cells in texts)) for index, column in enumerate(columns)
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column.title, justify="right" if column.title != "replicas" else "left", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    for row, cells in zip(rows, texts, strict=True):
        table.add_row(*cells, heat_strip(row.layers, width - used))
    return Group(table)


def _legend(rates: "LoadRates | None") -> str:
    scale = f"{HEAT[0]}{HEAT[1]} below the even share, {HEAT[2]} about it, {HEAT[3]} above, {HEAT[4]} twice or more"
    return scale if rates is not None and _is_busy(rates) else f"quiet now, so this is since the start: {scale}"


def _replicas_table(replicas: Sequence["ReplicaLoad"], num_lines: int, width: int) -> Group:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    wide = {"p99": 66, "queue": 74, "kernels": 82, "flying": 90, "failed": 98}
    titles = ["replica", "state", "experts", "calls", "failed", "flying", "p50", "p99", "queue", "kernels"]
    shown = [title for title in titles if width >= wide.get(title, 0)]
    for title in shown:
        table.add_column(title, justify="left" if title in titles[:3] else "right", no_wrap=True)
    fitting = replicas if len(replicas) < num_lines else replicas[: max(0, num_lines - 2)]
    for replica in fitting:
        cells = _replica_cells(replica)
        table.add_row(*(cells[title] for title in shown))
    num_hidden = len(replicas) - len(fitting)
    return Group(table, *([Text(f"and {num_hidden} more", style="dim")] if num_hidden else []))


def _replica_cells(replica: "ReplicaLoad") -> dict[str, str | Text]:
    return {
        "replica": replica.endpoint,
        "state": Text(replica.state, style="green" if replica.ready else "yellow"),
        "experts": format_ranges(replica.experts) if replica.experts else "?",
        "calls": f"{replica.calls:,}",
        "failed": _number(replica.failed_calls),
        "flying": _number(replica.inflight_rows),
        "p50": duration(replica.latency_p50_ns),
        "p99": duration(replica.latency_p99_ns),
        "queue": duration(replica.queue_p50_ns),
        "kernels": duration(replica.compute_p50_ns),
    }
