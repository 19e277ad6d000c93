"""Runs inside a pod: answers the external metrics API with the demand that a gateway counts.

python external_metrics.py ENDPOINT METRIC CERTIFICATE. What prometheus-adapter does in earnest, without Prometheus: the
mean rows in flight per expert over the last seconds, summed over the experts that the selector names.
"""

import asyncio
import json
import re
import ssl
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from expertmesh.client import AsyncClient
from expertmesh.errors import ExpertmeshError

GROUP = "external.metrics.k8s.io/v1beta1"
PORT = 6443
WINDOW_SECONDS, POLL_SECONDS = 5.0, 0.02


class Demand:
    """Rows in flight per expert, as the gateway has counted them lately."""

    def __init__(self):
        self._samples = deque()

    async def follow(self, endpoint):
        """Ask the gateway without end."""
        async with AsyncClient(endpoint) as client:
            while True:
                try:
                    load = await client.load()
                except ExpertmeshError as error:
                    print(error, file=sys.stderr)
                else:
                    self._add({expert.expert: expert.inflight_rows for expert in load.experts})
                await asyncio.sleep(POLL_SECONDS)

    def mean(self, experts):
        """Mean rows in flight to these experts together."""
        samples = list(self._samples)
        rows = [sum(sample.get(expert, 0) for expert in experts) for _, sample in samples]
        return sum(rows) / max(1, len(rows))

    def _add(self, rows):
        now = time.monotonic()
        self._samples.append((now, rows))
        while self._samples[0][0] < now - WINDOW_SECONDS:
            self._samples.popleft()


def make_handler(demand, metric):
    """A handler of requests for ``metric``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            if url.path.endswith(f"/{metric}"):
                selector = parse_qs(url.query).get("labelSelector", [""])[0]
                self._answer(list_values(demand.mean(read_experts(selector)), metric))
            else:
                self._answer(list_resources(metric))

        def _answer(self, body):
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def read_experts(selector):
    """The experts that a selector names: ``expert in (0,1),service=x`` gives [0, 1]."""
    listed = re.search(r"expert in \(([\d,]+)\)", selector)
    return [int(expert) for expert in listed[1].split(",")] if listed else []


def list_values(value, metric):
    """The answer to a question for the metric; a quantity in thousandths."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    item = {"metricName": metric, "metricLabels": {}, "timestamp": now, "value": f"{round(1000 * value)}m"}
    return {"kind": "ExternalMetricValueList", "apiVersion": GROUP, "metadata": {}, "items": [item]}


def list_resources(metric):
    """The answer to a question what there is."""
    resource = {"name": metric, "singularName": "", "namespaced": True, "verbs": ["get"]}
    resources = [resource | {"kind": "ExternalMetricValueList"}]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP, "resources": resources}


def main(endpoint, metric, certificate):
    """Serve until killed."""
    demand = Demand()
    server = ThreadingHTTPServer(("0.0.0.0", PORT), make_handler(demand, metric))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asyncio.run(demand.follow(endpoint))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
