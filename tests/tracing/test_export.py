"""Spans over real OTLP to a collector in this process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from expertmesh.tracing.config import TraceConfig, open_tracer

Received = list[tuple[str, pb.ExportTraceServiceRequest]]


@contextmanager
def http_collector(received: Received) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, pb.ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def grpc_collector(received: Received) -> Iterator[str]:
    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):
            received.append(("/v1/traces", request))
            return pb.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("collector", [http_collector, grpc_collector])
def test_spans_reach_a_collector_before_the_tracer_closes(collector):
    received: Received = []
    with collector(received) as endpoint, open_tracer(TraceConfig(endpoint, 1.0), "expertmesh-test") as tracer:
        tracer.start("work", "", {"expertmesh.layer": 3}).end()
    [(path, request)] = received
    [resource_spans] = request.resource_spans
    resource = {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
    [span] = resource_spans.scope_spans[0].spans
    assert path == "/v1/traces"
    assert resource["service.name"] == "expertmesh-test"
    assert (span.name, span.attributes[0].key, span.attributes[0].value.int_value) == ("work", "expertmesh.layer", 3)


def test_a_path_is_kept():
    received: Received = []
    with (
        http_collector(received) as endpoint,
        open_tracer(TraceConfig(f"{endpoint}/otlp/traces", 1.0), "test") as tracer,
    ):
        tracer.start("work", "", {}).end()
    assert [path for path, _ in received] == ["/otlp/traces"]
