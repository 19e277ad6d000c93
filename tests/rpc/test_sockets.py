import pytest

from expertmesh.errors import ConfigError
from expertmesh.rpc.sockets import bind, free_port, with_port


def test_bound_sockets_listen_on_the_port_or_a_free_one():
    with bind("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        assert with_port("127.0.0.1:0", port) == f"127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind(f"127.0.0.1:{port}")
    bind(f"127.0.0.1:{port}").close()


def test_a_free_port_can_be_bound():
    bind(f"127.0.0.1:{free_port()}").close()


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http"])
def test_what_is_no_address_is_named(address: str):
    with pytest.raises(ConfigError, match="host:port"):
        bind(address)
