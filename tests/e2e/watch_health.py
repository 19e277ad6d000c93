"""Runs inside a gateway's pod until that has become ready: what its probes were answered, change by change, as JSON.

python watch_health.py GRPC_PORT HTTP_PORT. Asks over gRPC for what the chart's probes ask, over HTTP for /health.
"""

import json
import sys
import time
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PAUSE_SECONDS = 0.05
TIMEOUT_SECONDS = 5


def ask_grpc(stub, service):
    """The name of a service's state; a server that is not there yet is waited for."""
    request = health_pb2.HealthCheckRequest(service=service)
    status = stub.Check(request, timeout=TIMEOUT_SECONDS, wait_for_ready=True).status
    return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def ask_http(port):
    """The status of /health; None while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=TIMEOUT_SECONDS) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return None


def watch(stub, http_port):
    """Each probe's answers until readiness has become SERVING, without repetitions."""
    answers = {"health": [], "liveness": [], "readiness": []}
    while answers["readiness"][-2:] != ["NOT_SERVING", "SERVING"]:
        time.sleep(PAUSE_SECONDS)
        # Readiness first: once it is SERVING, the others have nothing to wait for.
        note(answers["readiness"], ask_grpc(stub, "readiness"))
        note(answers["liveness"], ask_grpc(stub, "liveness"))
        note(answers["health"], ask_http(http_port))
    return answers


def note(answers, answer):
    """Append an answer that is another than before."""
    if answer is not None and answers[-1:] != [answer]:
        answers.append(answer)


def main(grpc_port, http_port):
    """Print what was answered."""
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        print(json.dumps(watch(health_pb2_grpc.HealthStub(channel), http_port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
