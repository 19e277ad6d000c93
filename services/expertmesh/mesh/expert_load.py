"""How many rows each expert was sent, and how many it still owes. Knows counts per layer and expert, not replicas.

Alphabet: T rows of a step, A experts chosen per row, L layers, E experts.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from expertmesh.counting.histogram import Histogram
from expertmesh.counting.moving_mean import MovingMean

DEMAND_WINDOW_SECONDS = 10.0
RPC_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CALL_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class ExpertLoadCounter:
    """What the gate chose and the experts were asked, per expert, since it was made; ``clock`` is in seconds."""

    def __init__(self, num_layers: int, num_experts: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.inflight_rows = [0] * num_experts
        self.queue_rows = [0] * num_experts
        self.num_retries = [0] * num_experts
        self.num_damaged = [0] * num_experts
        self.num_hedged = [0] * num_experts
        self.num_dropped = [0] * num_experts
        self.rpc_seconds = [Histogram(RPC_SECONDS) for _ in range(num_experts)]
        self.call_rows = [Histogram(CALL_ROWS) for _ in range(num_experts)]
        self.sent_bytes = 0
        self.received_bytes = 0
        self._tokens = np.zeros((num_layers, num_experts), dtype=np.int64)  # [L, E]
        self._clock = clock
        self._demand = [MovingMean(DEMAND_WINDOW_SECONDS, clock()) for _ in range(num_experts)]

    @property
    def num_layers(self) -> int:
        """Layers L that are counted."""
        return len(self._tokens)

    @property
    def num_experts(self) -> int:
        """Experts E that are counted."""
        return len(self.inflight_rows)

    def step(self, layer: int, topk_ids: npt.NDArray[np.integer]) -> "StepLoad":
        """Count the choices ``topk_ids`` [T, A] of one layer step; they are owed until its end."""
        rows = np.bincount(topk_ids.ravel(), minlength=self.num_experts)  # [E]
        self._tokens[layer] += rows
        return StepLoad(self, rows.tolist())

    def count(self, cells: npt.NDArray[np.integer]) -> None:
        """Count choices whose rows were never owed, each as layer x E + expert, in any order."""
        self._tokens += np.bincount(cells.ravel(), minlength=self._tokens.size).reshape(self._tokens.shape)

    def demand_rows(self, expert: int) -> float:
        """Rows in flight to ``expert`` and waiting for it, averaged over the last seconds: what it is asked to bear."""
        return self._demand[expert].at(self._clock())

    def by_layer(self, expert: int) -> list[int]:
        """Rows sent to ``expert``, layer 0 first."""
        tokens: list[int] = self._tokens[:, expert].tolist()
        return tokens

    def demand_changed(self, expert: int, num_rows: int) -> None:
        """Note that an expert owes ``num_rows`` more."""
        self._demand[expert].change(num_rows, self._clock())


class StepLoad:
    """The rows of one layer step on their way: they wait, are in flight, may wait again, and are answered.

    As a context manager it ends after the body.
    """

    def __init__(self, load: ExpertLoadCounter, rows: Sequence[int]) -> None:
        self._load = load
        self._rows = rows
        self.experts = tuple(expert for expert, num_rows in enumerate(rows) if num_rows)
        self._counted_in: dict[int, list[int] | None] = {}
        for expert in self.experts:
            load.demand_changed(expert, rows[expert])
            load.queue_rows[expert] += rows[expert]
            self._counted_in[expert] = load.queue_rows

    def __enter__(self) -> "StepLoad":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def num_rows(self, expert: int) -> int:
        """Rows that chose ``expert``."""
        return self._rows[expert]

    def end(self) -> None:
        """Owe nothing any more, whatever has been answered."""
        self.answered(self.experts)

    def sent(self, experts: Iterable[int], num_bytes: int = 0) -> None:
        """Note that a replica was asked for all rows of ``experts``."""
        self._load.sent_bytes += num_bytes
        for expert in experts:
            self._move(expert, self._load.inflight_rows)

    def hedged(self, experts: Iterable[int], num_bytes: int) -> None:
        """Note that a second replica was asked for all rows of ``experts``."""
        self._load.sent_bytes += num_bytes
        for expert in experts:
            self._load.num_hedged[expert] += 1

    def called(self, experts: Iterable[int], seconds: float, num_rows: int, num_bytes: int) -> None:
        """Note that a call with ``num_rows`` rows for some of ``experts`` was answered."""
        self._load.received_bytes += num_bytes
        for expert in experts:
            self._load.rpc_seconds[expert].observe(seconds)
            self._load.call_rows[expert].observe(num_rows)

    def failed(self, experts: Iterable[int], is_damaged: bool = False) -> None:
        """Note that ``experts`` have to be asked again, perhaps as call or answer was damaged on its way."""
        for expert in experts:
            self._load.num_retries[expert] += 1
            self._load.num_damaged[expert] += is_damaged
            self._move(expert, self._load.queue_rows)

    def dropped(self, expert: int) -> None:
        """Note that the rows of ``expert`` are computed without it."""
        self._load.num_dropped[expert] += self._rows[expert]
        self.answered([expert])

    def answered(self, experts: Iterable[int]) -> None:
        """Note that nothing more is owed by ``experts``."""
        for expert in experts:
            self._move(expert, None)

    def _move(self, expert: int, target: list[int] | None) -> None:
        source, num_rows = self._counted_in[expert], self._rows[expert]
        if source is target:
            return
        self._counted_in[expert] = target
        if source is not None:
            source[expert] -= num_rows
        else:
            self._load.demand_changed(expert, num_rows)
        if target is not None:
            target[expert] += num_rows
        else:
            self._load.demand_changed(expert, -num_rows)


def shares(totals: list[int]) -> list[float]:
    """Divide each load by the sum of all; zeros before the first token."""
    whole = sum(totals)
    return [total / whole if whole else 0.0 for total in totals]


def balancedness(totals: list[int]) -> float:
    """Mean load divided by the greatest: 1 when even, 1/E when one expert gets everything, 0 before the first token."""
    return sum(totals) / len(totals) / max(totals) if any(totals) else 0.0
