"""Which rows of a step go into a call, and how the answers of its calls add up. Knows rows, not replicas.

A row's sum is that of its experts in ascending order, whoever answers for which of them: a sum of three or more depends
on their order. So a server may add up what a row's first experts say; each of the others answers in a row of its own.

Alphabet: T rows of the step, A experts chosen per row, U rows of one call, D hidden width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.kernels.moe import add_rows
from expertmesh.wire.calls import ExpertCall

TakeRoom = Callable[[Sequence[int], torch.dtype], torch.Tensor | None]

# Of two, the order does not matter.
MAX_UNORDERED = 2


@dataclass(frozen=True)
class CallRows:
    """The ``numbers`` [U] of a call's rows in the step, and the lowest expert of each: ``firsts`` [U], ascending.

    Without ``firsts`` they can be added in any order.
    """

    numbers: torch.Tensor
    firsts: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Partial:
    """What some experts add to the ``rows`` of a step, None = all, in order: ``values`` [U, D] float32."""

    experts: tuple[int, ...]
    rows: CallRows | None
    values: torch.Tensor


@dataclass(frozen=True)
class _Term:
    """What is added at a time: ``values`` [U, D] to the rows ``numbers`` [U], None = all, from ``expert`` on."""

    expert: int
    numbers: torch.Tensor | None
    values: torch.Tensor


def max_call_rows(num_rows: int, num_chosen: int) -> int:
    """Return how many rows of a call ``num_rows`` of the step can become."""
    return num_rows if num_chosen <= MAX_UNORDERED else num_rows * num_chosen


def in_order(
    ids: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Put the choices of each row, [T, A], in ascending order where that is the order to add them in."""
    if ids.shape[1] <= MAX_UNORDERED:
        return ids, weights
    order = np.argsort(ids, axis=1)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(weights, order, 1)


def select_rows(
    step: ExpertCall, experts: tuple[int, ...], take_room: TakeRoom = lambda shape, dtype: None
) -> tuple[CallRows | None, ExpertCall]:
    """Pick the rows [U] that chose any of ``experts``, None = all, with every other choice masked out.

    Choices are as ``in_order`` puts them. Hidden states are gathered where ``take_room`` says, see ``Link``.
    """
    chosen = _which_chose(step.topk_ids, experts)  # [T, A]
    if chosen.all():
        return None, _move(step, take_room)
    if step.topk_ids.shape[1] > MAX_UNORDERED:
        return _select_in_order(step, chosen, take_room)
    ids = np.where(chosen, step.topk_ids, np.int32(-1))
    is_wanted = chosen.any(axis=1)  # [T]
    if is_wanted.all():
        return None, _move(replace(step, topk_ids=ids), take_room)
    rows = np.flatnonzero(is_wanted)  # [U]
    index = torch.from_numpy(rows)
    return CallRows(index), _take(step, index, ids[rows], take_room)


def _select_in_order(
    step: ExpertCall, chosen: npt.NDArray[np.bool_], take_room: TakeRoom
) -> tuple[CallRows, ExpertCall]:
    """Pick the ``chosen`` [T, A]: of each row the lowest up to one that is not as one row, the others one by one."""
    is_lowest = np.logical_and.accumulate(chosen, axis=1)  # [T, A]
    is_first = chosen.copy()
    is_first[:, 1:] &= ~is_lowest[:, 1:]
    rows, columns = np.nonzero(is_first)  # [U]
    by_expert = np.argsort(step.topk_ids[rows, columns], kind="stable")
    rows, columns = rows[by_expert], columns[by_expert]
    ids = step.topk_ids[rows]
    asked = np.where(columns[:, None], np.arange(ids.shape[1]) == columns[:, None], is_lowest[rows])  # [U, A]
    index = torch.from_numpy(rows)
    call = _take(step, index, np.where(asked, ids, np.int32(-1)), take_room)
    return CallRows(index, ids[np.arange(len(rows)), columns]), call


def combine(partials: Iterable[Partial], shape: Sequence[int], out: torch.Tensor | None = None) -> torch.Tensor:
    """Add up the partial rows in the order of their experts, not of their arrival: ``shape`` [T, D] float32.

    The sum is in ``out``, or else where it may lie already.
    """
    terms = sorted(_terms(partials), key=lambda term: term.expert)
    if out is None and len(terms) == 1 and terms[0].numbers is None:
        return terms[0].values
    total = torch.zeros(*shape, dtype=torch.float32) if out is None else out.zero_()
    for term in terms:
        if term.numbers is None:
            total.add_(term.values)
        else:
            add_rows(total, term.numbers, term.values)
    return total


def _terms(partials: Iterable[Partial]) -> Iterator[_Term]:
    for partial in partials:
        rows = partial.rows
        if rows is None or rows.firsts is None:
            yield _Term(partial.experts[0], None if rows is None else rows.numbers, partial.values)
            continue
        starts = np.flatnonzero(np.diff(rows.firsts, prepend=-1))
        for start, end in zip(starts, (*starts[1:], len(rows.firsts)), strict=True):
            yield _Term(int(rows.firsts[start]), rows.numbers[start:end], partial.values[start:end])


def _which_chose(ids: npt.NDArray[np.int32], experts: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    chosen: npt.NDArray[np.bool_] = ids == experts[0]
    for expert in experts[1:]:
        chosen |= ids == expert
    return chosen


def _take(step: ExpertCall, index: torch.Tensor, ids: npt.NDArray[np.int32], take_room: TakeRoom) -> ExpertCall:
    """Gather the rows ``index`` [U], which ask for ``ids`` [U, A]."""
    room = take_room((len(index), step.hidden.shape[1]), step.hidden.dtype)
    hidden = torch.index_select(step.hidden, 0, index, out=room)
    return replace(step, hidden=hidden, topk_ids=ids, topk_weights=step.topk_weights[index.numpy()])


def _move(call: ExpertCall, take_room: TakeRoom) -> ExpertCall:
    room = take_room(call.hidden.shape, call.hidden.dtype)
    return call if room is None else replace(call, hidden=room.copy_(call.hidden))
