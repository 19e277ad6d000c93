"""Runs inside a pod: answers the external metrics API with what a gateway exports at that moment.

python external_metrics.py URL METRIC CERTIFICATE. What prometheus-adapter does in earnest, without Prometheus: the sum
of METRIC at URL over the experts that the selector names.
"""

import json
import re
import ssl
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

GROUP = "external.metrics.k8s.io/v1beta1"
PORT = 6443
TIMEOUT_SECONDS = 5


def make_handler(source, metric):
    """A handler of requests for ``metric``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            if url.path.endswith(f"/{metric}"):
                selector = parse_qs(url.query).get("labelSelector", [""])[0]
                demand = scrape(source, metric)
                self._answer(list_values(sum(demand[expert] for expert in read_experts(selector)), metric))
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


def scrape(source, metric):
    """The metric of every expert."""
    with urlopen(source, timeout=TIMEOUT_SECONDS) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    return {
        sample.labels["expert"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == metric
    }


def read_experts(selector):
    """The experts that a selector names: ``expert in (0,1),service=x`` gives ["0", "1"]."""
    return re.search(r"expert in \(([\d,]+)\)", selector)[1].split(",")


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


def main(source, metric, certificate):
    """Serve until killed."""
    server = ThreadingHTTPServer(("0.0.0.0", PORT), make_handler(source, metric))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
