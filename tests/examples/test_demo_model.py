"""The shipped model: its data is clean, and its 4-bit file answers through a mesh as its card says."""

import asyncio
import json
import random
import runpy
from pathlib import Path

import pytest
from integration_mesh import QUARTERS, run_mesh

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-mixtral"
MAX_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def corpus():
    return runpy.run_path(str(EXAMPLE / "corpus.py"))


def test_held_out_problems_are_never_trained_on(corpus):
    held_out = {conversation.key for conversation in corpus["held_out"](random.Random(7))}
    rng = random.Random(0)
    trained = {corpus["training"](rng).key for _ in range(20_000)}
    assert not held_out & trained
    assert len(held_out) == 400


def test_the_shipped_questions_are_those_that_the_seed_gives(corpus):
    lines = (EXAMPLE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    conversations = corpus["held_out"](random.Random(7))
    assert [json.loads(line)["messages"][-1]["content"] for line in lines] == [c.turns[-1][0] for c in conversations]
    assert [json.loads(line)["answer"] for line in lines] == [c.turns[-1][1] for c in conversations]


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) <= MAX_BYTES


def test_the_awq_file_answers_through_a_mesh():
    evaluate = runpy.run_path(str(EXAMPLE / "evaluate.py"))["evaluate"]

    async def run():
        async with run_mesh(EXAMPLE / "awq", hosts=QUARTERS, backend="cpu") as mesh:
            return await evaluate(mesh.client.endpoint)

    right, asked = asyncio.run(run())
    assert asked.total() == 400
    assert right.total() / asked.total() >= 0.95, right
