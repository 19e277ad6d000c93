import resource

import pytest

from expertmesh.errors import ConfigError
from expertmesh.rpc.sockets import NUM_OTHER_FILES, allow_sockets, bind, free_port, with_port


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


@pytest.mark.parametrize("num_sockets", [1000, 10**9])
def test_so_many_sockets_may_be_open_as_are_wanted_or_can_be(num_sockets: int):
    before = _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few, most = 500, 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        allow_sockets(min(num_sockets, most))
        found = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(num_sockets, most) + NUM_OTHER_FILES
        assert found == (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        allow_sockets(1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == found
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
