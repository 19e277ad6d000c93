import asyncio
import logging
from contextlib import suppress
from dataclasses import replace

import pytest
from link_server import FINGERPRINT, INFO, link_server

from expertmesh.discovery.endpoints import StaticDiscovery
from expertmesh.mesh.numerics import numerics_of
from expertmesh.mesh.pool import ReplicaPool

CODES = replace(INFO, backend="cpu", weight_format="awq 4-bit g128", isa="avx2")


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"isa": "amx", "device": "cpu:1", "version": "9", "experts": (1,)}, True),
        ({"backend": "cpu-a8"}, False),
        ({"deterministic": False}, False),
        ({"weight_format": "bfloat16"}, False),
    ],
)
def test_codes_have_the_same_bits_on_all_instruction_sets_and_on_one_backend(change, is_same):
    assert (numerics_of(replace(CODES, **change)) == numerics_of(CODES)) == is_same


def test_plain_weights_have_the_same_bits_on_one_instruction_set():
    plain = replace(CODES, weight_format="bfloat16")
    assert numerics_of(plain) != numerics_of(replace(plain, isa="avx512"))


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_replica_that_computes_other_bits_is_refused_where_it_would_be_a_twin(mixes, is_shared, monkeypatch, caplog):
    monkeypatch.setattr("expertmesh.mesh.connection.MISMATCH_BACKOFF_SECONDS", 0.05)
    other = replace(CODES, backend="cpu-a8", experts=(3,) if is_shared else (2, 3))
    first = replace(CODES, experts=(0, 1, 3) if is_shared else (0, 1))

    async def run(one, two) -> None:
        discovery = StaticDiscovery(frozenset({one.address, two.address}))
        pool = ReplicaPool(discovery, FINGERPRINT, "grpc", mixes)
        following = asyncio.create_task(pool.run())
        try:
            async with asyncio.timeout(20):
                if mixes or not is_shared:
                    await pool.wait_until(lambda: all(replica.is_ready for replica in pool.replicas) and pool.replicas)
                    return
                while "refusing replica" not in caplog.text:
                    await asyncio.sleep(0.01)
                assert len(pool.ready(3)) == 1
                # It serves once the other one is gone.
                [taken] = pool.ready(3)
                (one if taken.endpoint == one.address else two).stop.set()
                await pool.wait_until(lambda: any(twin is not taken for twin in pool.ready(3)))
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    with link_server(info=first) as one, link_server(info=other) as two, caplog.at_level(logging.ERROR):
        asyncio.run(run(one, two))
    refusals = [record.message for record in caplog.records if "refusing replica" in record.message]
    assert bool(refusals) == (is_shared and not mixes)
    assert all("cpu-a8" in message and "--allow-mixed-numerics" in message for message in refusals)
