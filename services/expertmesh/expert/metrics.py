"""An expert server in Prometheus's words. Knows calls and their outcomes, not how they are run."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from expertmesh.expert.job import CallJob, Outcome
from expertmesh.wire.calls import ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode
from expertmesh.wire.info import ServerInfo

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class ExpertMetrics:
    """A CallObserver whose counts are in ``registry``; ``queue_rows`` is asked whenever Prometheus asks.

    A launch is what the kernels run at once: the rows of one call or of several that waited together.
    """

    def __init__(self, registry: CollectorRegistry, info: ServerInfo, queue_rows: Callable[[], int]) -> None:
        self._calls = Counter("expertmesh_server_calls", "Calls answered with a result.", registry=registry)
        self._rows = Counter("expertmesh_server_rows", "Rows of these calls.", registry=registry)
        self._failures = Counter("expertmesh_server_failures", "Calls refused or failed.", ["code"], registry=registry)
        for code in FailureCode:
            self._failures.labels(code.name)
        self._batch_rows = Histogram(
            "expertmesh_server_batch_rows", "Rows of one launch.", buckets=ROWS, registry=registry
        )
        self._queue_seconds = Histogram(
            "expertmesh_server_queue_seconds", "Wait of a call for its launch.", buckets=SECONDS, registry=registry
        )
        self._compute_seconds = Histogram(
            "expertmesh_server_compute_seconds", "One launch, with its copies.", buckets=SECONDS, registry=registry
        )
        transferred = Counter(
            "expertmesh_server_bytes", "Bytes of the tensors of these calls.", ["direction"], registry=registry
        )
        self._received_bytes, self._sent_bytes = transferred.labels("received"), transferred.labels("sent")
        Gauge("expertmesh_server_queue_rows", "Rows that wait.", registry=registry).set_function(queue_rows)
        Gauge("expertmesh_server_weight_bytes", "Weights of the hosted experts.", registry=registry).set(
            info.weight_bytes
        )
        Info("expertmesh_server", "What is served.", registry=registry).info(_labels(info))

    def refused(self, failure: CallFailure) -> None:
        """Count a call that was not queued."""
        self._failures.labels(failure.code.name).inc()

    def answered(self, answers: Sequence[tuple[CallJob, Outcome]]) -> None:
        """Count the calls of one launch."""
        for _, outcome in answers:
            if isinstance(outcome, CallFailure):
                self.refused(outcome)
        done = [(job, outcome) for job, outcome in answers if isinstance(outcome, ExpertResult)]
        if done:
            self._launched(done)

    def _launched(self, done: Sequence[tuple[CallJob, ExpertResult]]) -> None:
        num_rows = sum(job.num_rows for job, _ in done)
        self._calls.inc(len(done))
        self._rows.inc(num_rows)
        self._batch_rows.observe(num_rows)
        self._compute_seconds.observe(done[0][1].compute_seconds)
        self._received_bytes.inc(sum(job.call.num_bytes for job, _ in done))
        self._sent_bytes.inc(sum(result.partial.nbytes for _, result in done))
        for _, result in done:
            self._queue_seconds.observe(result.queue_seconds)


def _labels(info: ServerInfo) -> dict[str, str]:
    return {
        "version": info.version,
        "fingerprint": info.fingerprint,
        "experts": ",".join(map(str, info.experts)),
        "weight_format": info.weight_format,
        "backend": info.backend,
        "isa": info.isa,
        "device": info.device,
    }
