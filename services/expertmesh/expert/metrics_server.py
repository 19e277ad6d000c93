"""``/metrics`` of an expert server, over HTTP. Knows a registry and an address, not what is counted."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from expertmesh.errors import ConfigError
from expertmesh.rpc.sockets import split_address, with_port


@contextmanager
def metrics_server(address: str, registry: CollectorRegistry) -> Iterator[str]:
    """Serve ``registry`` on ``address`` (host:port, port 0 for a free one) inside the ``with``, which yields host:port.

    In threads of its own: the event loop answers calls, and a scrape may take as long as it likes. ConfigError when
    the address is none or taken.
    """
    host, port = split_address(address)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(f"cannot serve metrics on {address}: {error}") from error
    try:
        yield with_port(address, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
