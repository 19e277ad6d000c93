import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from expertmesh.errors import ConfigError
from expertmesh.expert.metrics_server import metrics_server


def test_a_registry_is_served_until_the_end():
    registry = CollectorRegistry()
    Gauge("answer", "All of it.", registry=registry).set(42)
    with (
        metrics_server("127.0.0.1:0", registry) as address,
        urllib.request.urlopen(f"http://{address}/metrics") as response,
    ):
        assert b"answer 42.0" in response.read()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{address}/metrics")


def test_an_address_that_is_taken_is_named():
    with (
        metrics_server("127.0.0.1:0", CollectorRegistry()) as address,
        pytest.raises(ConfigError, match=f"cannot serve metrics on {address}"),
        metrics_server(address, CollectorRegistry()),
    ):
        pass


@pytest.mark.parametrize("address", ["9090", "host:", "host:99999", ":9090"])
def test_what_is_no_address_is_named(address):
    with pytest.raises(ConfigError, match="host:port"), metrics_server(address, CollectorRegistry()):
        pass
