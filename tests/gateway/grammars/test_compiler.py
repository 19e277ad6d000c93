"""Grammars compiled by real processes and once more in this one."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from following import until
from hostile import hostile_schema

from expertmesh.engine.request import Constraint
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.grammars.compiler import BoundedCompiler
from expertmesh.gateway.grammars.verdict import TrialSettings
from expertmesh.text.constraint import GrammarCompiler
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tokenizer import Tokenizer

VOCAB = 32000


class Construct:
    """What is done in this process, and of which grammars."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._compiler = GrammarCompiler(tokenizer, {2}, VOCAB)
        self.sources: list[str] = []

    def __call__(self, kind: str, source: str) -> Constraint:
        self.sources.append(source)
        return self._compiler.compile(Grammar(GrammarKind(kind), source))


def run(directory: Path, use: Callable[[BoundedCompiler, Construct], Awaitable[None]]) -> None:
    async def main() -> None:
        others = children()
        construct = Construct(Tokenizer.open(directory))
        compiler = BoundedCompiler(construct, TrialSettings(str(directory), [2], VOCAB))
        try:
            await use(compiler, construct)
        finally:
            await compiler.close()
        assert [worker.pid for worker in compiler.workers] == [None, None]
        assert children() <= others

    asyncio.run(main())


def children() -> set[str]:
    """Process ids of what this process has started, whichever test it was."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_what_passes_is_made_here_and_what_is_refused_is_not(tokenizer_directory: Path):
    async def use(compiler: BoundedCompiler, construct: Construct) -> None:
        hostile = [compiler.compile("json_schema", hostile_schema(24, first)) for first in range(3)]
        compiled, *errors = await asyncio.gather(compiler.compile("regex", "x*"), *hostile, return_exceptions=True)
        assert all(isinstance(error, InvalidRequestError) for error in errors)
        assert compiled.constraint.allowed()[2]
        assert construct.sources == ["x*"]

    run(tokenizer_directory, use)


def test_whoever_leaves_frees_a_process_for_the_next(tokenizer_directory: Path):
    async def use(compiler: BoundedCompiler, construct: Construct) -> None:
        for _ in range(2):
            leaving = [
                asyncio.create_task(compiler.compile("json_schema", hostile_schema(200, first))) for first in range(4)
            ]
            await until(lambda: all(worker.pid for worker in compiler.workers))
            for task in leaving:
                task.cancel()
            await asyncio.wait(leaving)
            assert all(task.cancelled() for task in leaving)
        await asyncio.gather(*(compiler.compile("regex", f"x{{{number}}}") for number in range(6)))
        assert len(construct.sources) == 6

    run(tokenizer_directory, use)
