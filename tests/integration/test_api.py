import asyncio
import math

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from integration_mesh import Mesh, run_mesh

from expertmesh.client import Sampling
from expertmesh.errors import InvalidRequestError
from expertmesh.kernels.native.library import load_default
from expertmesh.rpc.channels import open_channel
from expertmesh.text.conversation import Message
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer
from expertmesh.v1 import generation_pb2 as pb
from expertmesh.v1 import generation_pb2_grpc, load_pb2, load_pb2_grpc


@pytest.fixture(scope="module")
def directory(make_mixtral):
    """A model with the vocabulary of the published tokenizer."""
    return make_mixtral(vocab_size=32000, max_position_embeddings=64).directory


def with_mesh(directory, use, **config):
    """Run ``use(mesh)`` against a mesh of local experts."""

    async def run():
        async with run_mesh(directory, hosts=None, **config) as mesh:
            return await use(mesh)

    return asyncio.run(run())


def test_text_and_ids_and_counts_agree(directory):
    tokenizer = Tokenizer.open(directory)

    async def use(mesh: Mesh):
        sampling = Sampling(max_tokens=10, ignore_eos=True)
        from_text = [piece async for piece in mesh.client.generate("Hello world", sampling)]
        from_ids = [piece async for piece in mesh.client.generate(tokenizer.encode_prompt("Hello world"), sampling)]
        chat = [piece async for piece in mesh.client.chat([("user", "Hello")], sampling)]
        return from_text, from_ids, chat

    from_text, from_ids, chat = with_mesh(directory, use)
    assert from_text == from_ids
    ids = [token_id for piece in from_text for token_id in piece.token_ids]
    prompt_ids = tokenizer.encode_prompt("Hello world")
    assert "Hello world" + "".join(piece.text for piece in from_text) == tokenizer.decode(prompt_ids + ids)
    assert [piece.finish_reason for piece in from_text] == [None] * 9 + ["length"]
    assert (from_text[-1].num_prompt_tokens, from_text[-1].num_output_tokens) == (3, 10)
    assert chat[-1].num_prompt_tokens == len(InstTemplate(tokenizer).encode([Message("user", "Hello")]))


def test_max_tokens_beyond_the_context_ends_with_it(directory):
    async def use(mesh: Mesh):
        return [p async for p in mesh.client.generate([1] * 60, Sampling(max_tokens=1000, ignore_eos=True))]

    pieces = with_mesh(directory, use)
    assert (len(pieces), pieces[-1].finish_reason) == (4, "length")


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([1] * 64, {}, "maximum context length is 64 tokens"),
        ([], {}, "no tokens"),
        ([1, 32000], {}, "32000 is outside the vocabulary of 32000"),
        ([1], {"temperature": -0.5}, "temperature is -0.5"),
        ([1], {"temperature": math.nan}, "temperature is nan"),
        ([1], {"top_p": 0.0}, "top_p is 0.0"),
        ([1], {"repetition_penalty": -1.0}, "repetition_penalty is -1"),
        ([1], {"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_a_wrong_value_is_named_and_nobody_else_is_disturbed(directory, prompt, sampling, message):
    async def use(mesh: Mesh):
        good = asyncio.create_task(mesh.ids([1, 2, 3], max_tokens=20, ignore_eos=True))
        with pytest.raises(InvalidRequestError, match=message):
            await mesh.ids(prompt, **sampling)
        assert len(await good) == 20
        assert mesh.gateway.blocks.num_free == mesh.gateway.blocks.num_blocks

    with_mesh(directory, use)


def test_conversations_out_of_order_are_invalid(directory):
    async def use(mesh: Mesh):
        for messages in ([], [("user", "a"), ("assistant", "hi")], [("user", "a"), ("robot", "b")]):
            with pytest.raises(InvalidRequestError):
                await anext(mesh.client.chat(messages))

    with_mesh(directory, use)


def test_tokenize_detokenize_and_model_info(directory):
    tokenizer = Tokenizer.open(directory)

    async def use(mesh: Mesh):
        async with open_channel(mesh.gateway.server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            ids = list((await stub.Tokenize(pb.TokenizeRequest(text="Hello 🙂"))).token_ids)
            assert ids == tokenizer.encode_prompt("Hello 🙂")
            message = pb.ChatMessage(role="user", content="Hello")
            conversation = pb.Conversation(messages=[message])
            chat = list((await stub.Tokenize(pb.TokenizeRequest(conversation=conversation))).token_ids)
            assert chat == InstTemplate(tokenizer).encode([Message("user", "Hello")])
            assert (await stub.Detokenize(pb.DetokenizeRequest(token_ids=ids))).text == "Hello 🙂"
            for request, call in (
                (pb.TokenizeRequest(), stub.Tokenize),
                (pb.DetokenizeRequest(token_ids=[99999]), stub.Detokenize),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call(request)
                assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            return await stub.GetModelInfo(pb.GetModelInfoRequest())

    info = with_mesh(directory, use, backend="reference")
    assert (info.architecture, info.num_experts, info.max_model_len) == ("MixtralForCausalLM", 8, 64)
    assert len(info.fingerprint) == 16
    assert (info.isa, info.deterministic) == ("", False)


@pytest.mark.skipif(load_default() is None, reason="needs the C kernels")
def test_model_info_tells_the_instruction_set_that_was_asked_for(directory):
    async def use(mesh: Mesh):
        return await mesh.client.model_info()

    info = with_mesh(directory, use, backend="cpu", isa="avx2")
    assert (info.isa, info.deterministic) == ("avx2", True)


def test_health_and_reflection_name_the_services(directory):
    async def use(mesh: Mesh):
        async with open_channel(mesh.gateway.server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "expertmesh.v1.GenerationService", "expertmesh.v1.LoadService"):
                status = (await health.Check(health_pb2.HealthCheckRequest(service=service))).status
                assert status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            return {service.name for service in (await call.read()).list_services_response.service}

    assert {"expertmesh.v1.GenerationService", "expertmesh.v1.LoadService"} <= with_mesh(directory, use)


def test_load_counts_every_choice(directory):
    async def use(mesh: Mesh):
        await mesh.ids([1, 2, 3, 4, 5], max_tokens=4, ignore_eos=True)
        async with open_channel(mesh.gateway.server.address) as channel:
            return await load_pb2_grpc.LoadServiceStub(channel).GetLoad(load_pb2.GetLoadRequest())

    load = with_mesh(directory, use)
    computed = 5 + 3  # the last token is sampled, never computed
    assert sum(expert.tokens for expert in load.experts) == computed * 2 * 2  # layers x experts per token
    assert [sum(layer) for layer in zip(*(e.tokens_by_layer for e in load.experts), strict=True)] == [computed * 2] * 2
    assert math.isclose(sum(expert.share for expert in load.experts), 1)
    assert 0 < load.balancedness <= 1
    assert not any(expert.inflight_rows for expert in load.experts)


def test_an_oversized_message_is_refused(directory):
    async def use(mesh: Mesh):
        async with open_channel(mesh.gateway.server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.Tokenize(pb.TokenizeRequest(text="x" * (65 * 2**20)))
            assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(await mesh.ids([1, 2], max_tokens=3, ignore_eos=True)) == 3

    with_mesh(directory, use)
