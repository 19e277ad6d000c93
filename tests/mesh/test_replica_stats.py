from expertmesh.mesh.replica_stats import NUM_RECENT_CALLS, CallTimes, ReplicaStats


def test_all_calls_are_counted_and_the_recent_ones_are_kept():
    stats = ReplicaStats()
    for seconds in range(NUM_RECENT_CALLS + 2):
        stats.record(CallTimes(float(seconds), 0.0, 0.0))
    assert (stats.num_calls, stats.recent[0].latency_seconds) == (NUM_RECENT_CALLS + 2, 2.0)
