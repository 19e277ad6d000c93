"""Replicas that would give another text, in processes of their own, among those that give the right one."""

import asyncio
import json
import shutil

from expert_process import expert_process
from following import ToldDiscovery
from integration_mesh import run_mesh, start_expert
from waiting import wait_until

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.reader import Checkpoint


async def refusal_in(caplog):
    await asyncio.to_thread(wait_until, lambda: "refusing replica" in caplog.text)


def test_a_process_that_rounds_activations_is_refused_among_those_that_do_not(make_mixtral, prompts, caplog):
    directory = make_mixtral(group_size=128).directory

    async def main(stranger):
        twins = [await start_expert(directory, range(8)) for _ in range(2)]
        addresses = [address for _, address in twins]
        discovery = ToldDiscovery(*addresses)
        async with run_mesh(directory, [], discovery=discovery) as mesh:
            before = await mesh.ids(prompts[3], max_tokens=32, ignore_eos=True)
            discovery.say(*addresses, stranger)
            await refusal_in(caplog)
            after = await mesh.ids(prompts[3], max_tokens=32, ignore_eos=True)
            calls = {replica.endpoint: replica.stats.num_calls for replica in mesh.gateway.pool.replicas}
        for stop, _ in twins:
            await stop.aclose()
        return before, after, calls[stranger]

    with expert_process(directory, "--backend", "cpu-a8") as stranger:
        before, after, num_calls = asyncio.run(main(stranger.address))
    assert (before, num_calls) == (after, 0)
    assert f"{stranger.address} computes on cpu-a8" in caplog.text


def test_processes_that_differ_in_one_byte_are_told_apart_where_they_look_at_all(make_mixtral, tmp_path, caplog):
    directory = make_mixtral().directory
    other = shutil.copytree(directory, tmp_path / "other")
    spoil(other / "model.safetensors", "experts.5.w2")
    assert fingerprint(Checkpoint.open(other)) == fingerprint(Checkpoint.open(directory))

    async def main(first, second):
        discovery = ToldDiscovery(first)
        async with run_mesh(directory, [], discovery=discovery) as mesh:
            discovery.say(first, second)
            await refusal_in(caplog)
            return [replica.endpoint for replica in mesh.gateway.pool.ready(5)]

    flags = ("--backend", "cpu", "--verify-weights")
    with expert_process(directory, *flags) as first, expert_process(other, *flags) as second:
        assert asyncio.run(main(first.address, second.address)) == [first.address]
    assert f"{second.address} holds expert 5 of SHA-256" in caplog.text


def spoil(file, name):
    """Turn over the lowest bit of the first value of a tensor that has ``name`` in its own."""
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensor = next(header[key] for key in sorted(header) if name in key)
    data[8 + length + tensor["data_offsets"][0]] ^= 1
    file.write_bytes(data)
