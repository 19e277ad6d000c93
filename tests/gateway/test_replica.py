import torch

from expertmesh.gateway.replica import NUM_RECENT_CALLS, CallTimes, ReplicaStats, split_call
from expertmesh.wire.calls import ExpertCall


def test_a_long_call_is_cut_into_messages_that_add_up_to_it():
    call = ExpertCall(3, torch.randn(10, 8), torch.randint(0, 8, (10, 2)), torch.rand(10, 2), 1.5, "00-1-2-01")
    parts = split_call(call, max_bytes=3 * 8 * 4)
    assert [len(part.hidden) for part in parts] == [3, 3, 3, 1]
    assert torch.equal(torch.cat([part.hidden for part in parts]), call.hidden)
    assert torch.equal(torch.cat([part.topk_ids for part in parts]), call.topk_ids)
    assert torch.equal(torch.cat([part.topk_weights for part in parts]), call.topk_weights)
    assert {(part.layer, part.timeout_seconds, part.traceparent) for part in parts} == {(3, 1.5, "00-1-2-01")}


def test_a_row_larger_than_a_message_still_travels():
    call = ExpertCall(0, torch.randn(2, 8), torch.zeros(2, 2, dtype=torch.int64), torch.rand(2, 2))
    assert [len(part.hidden) for part in split_call(call, max_bytes=1)] == [1, 1]
    assert split_call(call, max_bytes=64) == [call]


def test_all_calls_are_counted_and_the_recent_ones_are_kept():
    stats = ReplicaStats()
    for seconds in range(NUM_RECENT_CALLS + 2):
        stats.record(CallTimes(float(seconds), 0.0, 0.0))
    assert (stats.num_calls, stats.recent[0].latency_seconds) == (NUM_RECENT_CALLS + 2, 2.0)
