import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from expertmesh.gateway.merge import merge


async def count(to: int, ended: list[int] | None = None) -> AsyncGenerator[int]:
    try:
        for value in range(to):
            await asyncio.sleep(0)
            yield value
    finally:
        if ended is not None:
            ended.append(to)


async def fail() -> AsyncGenerator[int]:
    yield 100
    raise ValueError("broken")


def test_everything_comes_through_each_stream_in_order():
    async def run() -> list[int]:
        return [value async for value in merge([count(3), count(0), count(2)])]

    values = asyncio.run(run())
    assert sorted(values) == [0, 0, 1, 1, 2]
    assert values[-1] == 2


def test_an_error_ends_the_other_streams():
    ended: list[int] = []

    async def run() -> list[int]:
        return [value async for value in merge([count(10**6, ended), fail()])]

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run())
    assert ended == [10**6]


def test_leaving_early_ends_every_stream():
    ended: list[int] = []

    async def run() -> None:
        async with aclosing(merge([count(10**6, ended), count(10**6, ended)])) as values:
            await anext(values)

    asyncio.run(run())
    assert ended == [10**6] * 2
