"""What the two clients do alike: methods, deadlines, keys, errors, leaving."""

import asyncio
import inspect
import subprocess
import sys
from contextlib import aclosing, closing

import pytest
from certificates import Authority
from scripted_gateway import FOREVER, ScriptedGateway, serving

from expertmesh.client import AsyncClient, Client, ClientTls
from expertmesh.errors import ConfigError, GatewayError, GatewayTimeoutError, InvalidRequestError


def with_gateway(use, *script):
    """Run ``use(gateway, address)`` against a scripted gateway."""

    async def main():
        gateway = ScriptedGateway(*script)
        async with serving(gateway) as address, asyncio.timeout(20):
            return await use(gateway, address)

    return asyncio.run(main())


def methods(client: type) -> dict[str, inspect.Signature]:
    public = {name: member for name, member in vars(client).items() if not name.startswith("_")}
    return {name: inspect.signature(member).replace(return_annotation=None) for name, member in public.items()}


def test_the_clients_have_the_same_methods_and_arguments():
    assert methods(AsyncClient) == methods(Client)
    assert inspect.signature(AsyncClient) == inspect.signature(Client)
    assert list(methods(Client)["chat_answers"].parameters) == [
        "self",
        "messages",
        "sampling",
        "output",
        "tools",
        "continue_final_message",
        "timeout_seconds",
    ]
    assert "whole answers" in (Client.chat_answers.__doc__ or "")


def test_whole_answers_are_the_pieces_put_together():
    async def use(gateway, address):
        async with AsyncClient(address) as client:
            [answer] = await client.chat_answers("hello")

        def ask():
            with Client(address) as client:
                return client.chat_answers([("user", "hello")])

        return answer, *await asyncio.to_thread(ask)

    first, second = with_gateway(use, ["one ", "two"], ["one ", "two"])
    assert first == second
    assert first.text == "one two"


@pytest.mark.parametrize("on_client", [True, False])
def test_a_deadline_ends_the_call(on_client):
    mine, call = ({"timeout_seconds": 0.2}, {}) if on_client else ({"timeout_seconds": 60}, {"timeout_seconds": 0.2})

    async def use(gateway, address):
        async with AsyncClient(address, **mine) as client:
            with pytest.raises(GatewayTimeoutError, match=f"{address}: DEADLINE_EXCEEDED"):
                await client.chat_answers("hello", **call)

        def ask():
            with Client(address, **mine) as client, pytest.raises(GatewayTimeoutError):
                client.chat_answers("hello", **call)

        await asyncio.to_thread(ask)

    with_gateway(use, ["one", FOREVER], ["one", FOREVER])


def test_leaving_the_iterator_ends_the_request():
    async def use_async(gateway, address):
        async with AsyncClient(address) as client, aclosing(client.chat("hello")) as pieces:
            assert (await anext(pieces)).text == "one"
            await pieces.aclose()
            await gateway.left.wait()

    async def use_sync(gateway, address):
        def ask():
            with Client(address) as client, closing(client.chat("hello")) as pieces:
                for piece in pieces:
                    return piece.text

        assert await asyncio.to_thread(ask) == "one"
        await gateway.left.wait()

    with_gateway(use_async, ["one", FOREVER])
    with_gateway(use_sync, ["one", FOREVER])


def test_the_key_goes_with_every_call_and_not_without_one():
    async def use(gateway, address):
        async with AsyncClient(address, api_key="secret") as client:
            await client.chat_answers("hello")
            with_key = gateway.metadata
        async with AsyncClient(address) as client:
            await client.chat_answers("hello")
        return with_key.get("authorization"), gateway.metadata.get("authorization")

    assert with_gateway(use, [], []) == ("Bearer secret", None)


@pytest.mark.parametrize("key", ["", "two\nlines", "clé"])
def test_a_key_that_no_header_carries_is_refused(key):
    with pytest.raises(ConfigError, match="api_key"):
        Client("127.0.0.1:1", api_key=key)


def test_values_that_fit_no_message_are_named():
    with Client("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequestError, match="TokenIds"):
            client.generate([1, -1])
        with pytest.raises(InvalidRequestError, match="ChatMessage"):
            client.chat([("user", 5)])


def test_nobody_there_is_a_gateway_error_and_not_serving():
    with Client("127.0.0.1:1", timeout_seconds=5) as client:
        assert not client.is_serving()
        with pytest.raises(GatewayError, match=r"127\.0\.0\.1:1: UNAVAILABLE"):
            client.model_info()


def test_importing_the_client_needs_no_torch():
    code = "import sys, expertmesh.client; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_both_clients_talk_over_tls_and_say_what_is_wrong_with_it(tmp_path):
    authority = Authority(tmp_path)
    server, client = authority.server(), authority.client()

    async def main():
        async with serving(ScriptedGateway(), tls=server) as address:
            async with AsyncClient(address, tls=client) as asking:
                names = [(await asking.model_info()).name]
            with Client(address, tls=client) as asking:
                names.append((await asyncio.to_thread(asking.model_info)).name)
            with Client(address) as plain, pytest.raises(GatewayError, match="speaks TLS: this end does not"):
                await asyncio.to_thread(plain.model_info)
        return names

    assert len(set(asyncio.run(main()))) == 1


def test_files_of_tls_that_cannot_be_used_are_named_before_anything_is_asked(tmp_path):
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}/none.pem"):
        Client("127.0.0.1:1", tls=ClientTls(tmp_path / "none.pem"))
