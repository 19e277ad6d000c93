from exposition import Samples
from prometheus_client import CollectorRegistry, generate_latest

from expertmesh.expert.metrics import ExpertMetrics
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.info import ServerInfo

INFO = ServerInfo("f00d", (1, 2), 8, 3, 16, "awq", "cpu", "cpu", 12345, "1.2.3", "avx2", True)


def scrape_after(mesh, calls, queue_rows=lambda: 0):
    """What is exported once ``calls``, which wait together, are answered."""
    registry = CollectorRegistry()
    metrics = ExpertMetrics(registry, INFO, queue_rows)
    if calls:
        mesh.run_queued(mesh.make_store(), calls, metrics)
    return Samples(generate_latest(registry).decode())


def test_what_is_counted_is_what_was_run(mesh):
    calls = [mesh.make_call(num_rows, layer=layer, seed=num_rows) for num_rows, layer in ((2, 0), (3, 0), (4, 1))]
    samples = scrape_after(mesh, calls)
    assert (samples["expertmesh_server_calls_total"], samples["expertmesh_server_rows_total"]) == (3, 9)
    # The two calls of one layer ran together.
    assert samples["expertmesh_server_batch_rows_count"] == samples["expertmesh_server_compute_seconds_count"] == 2
    assert samples["expertmesh_server_batch_rows_sum"] == 9
    assert samples["expertmesh_server_queue_seconds_count"] == 3
    assert samples["expertmesh_server_bytes_total", "received"] == sum(call.num_bytes for call in calls)
    assert samples["expertmesh_server_bytes_total", "sent"] == 9 * 4 * calls[0].hidden.shape[1]


def test_a_failed_call_is_counted_by_its_code_and_not_as_answered(mesh):
    bad = mesh.make_call(1)
    bad.hidden[0, 0] = float("nan")
    samples = scrape_after(mesh, [bad])
    assert samples["expertmesh_server_failures_total", "INVALID_REQUEST"] == 1
    assert samples["expertmesh_server_calls_total"] == 0


def test_every_failure_code_exists_before_its_first_time():
    registry = CollectorRegistry()
    ExpertMetrics(registry, INFO, lambda: 0).refused(CallFailure(FailureCode.BUSY, "full"))
    samples = Samples(generate_latest(registry).decode())
    counts = {code: samples["expertmesh_server_failures_total", code.name] for code in FailureCode}
    assert counts == {code: float(code is FailureCode.BUSY) for code in FailureCode}


def test_the_server_describes_itself(mesh):
    samples = scrape_after(mesh, [], queue_rows=lambda: 7)
    assert samples["expertmesh_server_queue_rows"] == 7
    assert samples["expertmesh_server_weight_bytes"] == 12345
    assert samples["expertmesh_server_info", "cpu", "cpu", "1,2", "f00d", "avx2", "1.2.3", "awq"] == 1
