import pytest
from serving.trace import Shares, Trace, clip, length, merge, shares


def test_spans_that_touch_are_joined():
    assert merge([(3, 4), (0, 1), (1, 2), (3.5, 5)]) == [(0, 2), (3, 5)]
    assert length([(0, 2), (1, 3), (5, 6)]) == 4


def test_spans_are_cut_at_windows():
    windows = [(1, 2), (3, 5), (8, 9)]
    assert clip([(0, 4), (4.5, 10)], windows) == [(1, 2), (3, 4), (4.5, 5), (8, 9)]
    assert clip([(0, 1), (2, 3), (9, 10)], windows) == []
    assert clip([(3, 5)], windows) == [(3, 5)]


def test_a_step_is_divided_into_torch_rpc_and_neither():
    # Two steps of two sequences, 10 s each, then one that ends them. Torch and rpc overlap for a second in the second.
    trace = Trace(
        torch=[(1.0, 3.0), (11.0, 13.0), (21.0, 29.0)],
        rpc=[(4.0, 9.0), (12.0, 18.0)],
        steps=[(0.0, 2, 2, 1.0), (10.0, 2, 2, 2.0), (20.0, 2, 2, 6.0)],
    )
    got = shares(trace, batch=2)
    assert got == Shares(num_steps=2, step=10.0, torch=2.0, rpc=5.0, neither=3.0, loop=2.5)


def test_steps_of_other_sizes_and_those_before_them_are_left_out():
    sizes = [(2, 2), (2, 2), (2, 9), (2, 2), (1, 1), (2, 2)]
    trace = Trace([], [], [(start**2, *size, 0.0) for start, size in enumerate(sizes)])
    assert shares(trace, batch=2).step == 1.0
    assert shares(trace, batch=2).num_steps == 1
    with pytest.raises(ValueError, match="3 sequences"):
        shares(trace, batch=3)


def test_a_trace_is_read_as_it_was_written(tmp_path):
    trace = Trace([(0.0, 1.5)], [(2.0, 3.0)], [(0.0, 16, 16, 0.5)])
    trace.write(tmp_path / "trace.json")
    assert Trace.read(tmp_path / "trace.json") == trace
