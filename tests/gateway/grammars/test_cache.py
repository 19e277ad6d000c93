"""Who waits for which grammar, and what is kept; nothing is compiled here."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from expertmesh.errors import InvalidRequestError, QueueFullError
from expertmesh.gateway.grammars import cache
from expertmesh.gateway.grammars.cache import Grammars
from expertmesh.gateway.grammars.compiler import Compiled


class Copies:
    """A constraint that counts its copies."""

    def __init__(self) -> None:
        self.num_copies = 0

    def copy(self) -> "Copies":
        self.num_copies += 1
        return Copies()


class Compiler:
    """Compiles when it is told to; a source that is a number says how large its grammar is."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.may_go_on = asyncio.Event()

    async def compile(self, kind: str, source: str) -> Compiled:
        self.begun.append(source)
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(source)
            raise
        if source == "wrong":
            raise InvalidRequestError("the grammar is wrong")
        if source == "failing":
            raise ZeroDivisionError
        return Compiled(Copies(), int(source))


def run(use: Callable[[Compiler, Grammars], Awaitable[None]]) -> None:
    async def main() -> None:
        compiler = Compiler()
        await use(compiler, Grammars(compiler.compile))

    asyncio.run(main())


def ask(grammars: Grammars, source: str, **more: bool) -> "asyncio.Task[object]":
    return asyncio.create_task(grammars.make_constraint("regex", source, **more))


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_text_is_compiled_once_for_all_who_wait_and_who_come_later():
    async def use(compiler: Compiler, grammars: Grammars) -> None:
        asked = [ask(grammars, "1") for _ in range(3)]
        await turns()
        compiler.may_go_on.set()
        constraints = {await one for one in (*asked, ask(grammars, "1"))}
        assert (compiler.begun, len(constraints)) == (["1"], 4)

    run(use)


def test_a_compilation_ends_with_the_last_who_waits_for_it():
    async def use(compiler: Compiler, grammars: Grammars) -> None:
        one, other = ask(grammars, "1"), ask(grammars, "1")
        await turns()
        one.cancel()
        await turns()
        assert compiler.cancelled == []
        other.cancel()
        await turns()
        assert compiler.cancelled == ["1"]
        again = ask(grammars, "1")
        compiler.may_go_on.set()
        await again
        assert compiler.begun == ["1", "1"]

    run(use)


def test_a_refusal_is_kept_for_a_while_and_a_failure_is_not(monkeypatch: pytest.MonkeyPatch):
    async def use(compiler: Compiler, grammars: Grammars) -> None:
        compiler.may_go_on.set()
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match="the grammar is wrong"):
                await grammars.make_constraint("regex", "wrong")
            with pytest.raises(ZeroDivisionError):
                await grammars.make_constraint("regex", "failing")
        assert compiler.begun == ["wrong", "failing", "failing"]
        await asyncio.sleep(0.1)
        with pytest.raises(InvalidRequestError):
            await grammars.make_constraint("regex", "wrong")
        assert compiler.begun.count("wrong") == 2

    monkeypatch.setattr(cache, "REFUSAL_SECONDS", 0.05)
    run(use)


def test_the_youngest_are_kept_up_to_a_number_and_a_size():
    async def use(compiler: Compiler, grammars: Grammars) -> None:
        compiler.may_go_on.set()
        for number in range(cache.MAX_KEPT):
            await grammars.make_constraint("regex", str(number))
        await grammars.make_constraint("regex", "0")
        await grammars.make_constraint("regex", "1000")
        await grammars.make_constraint("regex", "0")
        assert len(compiler.begun) == cache.MAX_KEPT + 1
        await grammars.make_constraint("regex", "1")
        assert compiler.begun[-1] == "1"
        huge = str(cache.MAX_KEPT_BYTES)
        for source in (huge, huge, "1"):
            await grammars.make_constraint("regex", source)
        assert compiler.begun[-2:] == [huge, "1"]

    run(use)


def test_so_many_may_wait_unless_their_answers_have_begun():
    async def use(compiler: Compiler, grammars: Grammars) -> None:
        asked = [ask(grammars, str(number)) for number in range(cache.MAX_COMPILING)]
        await turns()
        with pytest.raises(QueueFullError, match=f"{cache.MAX_COMPILING} grammars are being compiled"):
            await ask(grammars, "1000")
        asked += [ask(grammars, "0"), ask(grammars, "1001", has_begun=True)]
        await turns()
        compiler.may_go_on.set()
        await asyncio.gather(*asked, ask(grammars, "1000"))

    run(use)


def test_at_the_end_nobody_waits_any_more():
    async def use(compiler: Compiler, grammars: Grammars) -> None:
        asked = ask(grammars, "1")
        await turns()
        await grammars.close()
        await asyncio.wait([asked])
        assert (asked.cancelled(), compiler.cancelled) == (True, ["1"])

    run(use)
