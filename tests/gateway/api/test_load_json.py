import asyncio
import json

import pytest

from expertmesh.gateway.api.load_json import ReadLoad, measure_load
from expertmesh.v1 import load_pb2 as pb


def load(tokens: int, generated: int) -> pb.GetLoadResponse:
    return pb.GetLoadResponse(
        experts=[pb.ExpertLoad(expert=0, tokens=tokens, tokens_by_layer=[tokens, 0]), pb.ExpertLoad(expert=1)],
        gateway=pb.GatewayLoad(generation_tokens=generated),
    )


def reader(*loads: pb.GetLoadResponse) -> ReadLoad:
    remaining = iter(loads)

    async def read() -> pb.GetLoadResponse:
        return next(remaining)

    return read


def test_the_load_at_the_end_comes_with_the_rates_since_the_beginning():
    update = json.loads(asyncio.run(measure_load(reader(load(10, 1), load(30, 5)), 0.01)))
    seconds, rates = update["rates"]["seconds"], update["rates"]
    assert seconds >= 0.01
    assert rates["generation_tokens_per_second"] * seconds == pytest.approx(4)
    assert [expert["tokens_per_second"] * seconds for expert in rates["experts"]] == pytest.approx([20, 0])
    assert rates["experts"][0]["tokens_per_second_by_layer"][0] * seconds == pytest.approx(20)
    assert [expert["tokens"] for expert in update["load"]["experts"]] == ["30", "0"]


def test_what_is_zero_is_written_too():
    update = json.loads(asyncio.run(measure_load(reader(load(0, 0), load(0, 0)), 0.01)))
    assert update["load"]["experts"][1]["ready_replicas"] == 0
    assert update["load"]["experts"][1]["replicas"] == []
    assert update["load"]["gateway"]["kv_cache_usage"] == 0
