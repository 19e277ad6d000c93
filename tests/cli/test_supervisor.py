import asyncio
import os
import sys
import time
from dataclasses import replace

import pytest
from following import until

from expertmesh.cli.supervisor import ChildFailedError, Program, Supervisor

READY = "from expertmesh.cli.readiness import claim_ready_pipe; claim_ready_pipe()('here')"
SERVE = f"import time; {READY}; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}"


def program(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-c", code))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def silently(stages) -> Supervisor:
    return Supervisor(stages, lambda *_: None, lambda *_: None)


def supervise(stages, use, grace_seconds: float = 30):
    """Run ``use(supervisor, ready)`` once every program is ready, then stop; returns the lines shown.

    ``ready`` are the names and addresses of those that said so.
    """
    lines: list[tuple[str, str]] = []
    ready: list[tuple[str, str]] = []

    async def run():
        supervisor = Supervisor(stages, lambda *line: lines.append(line), lambda *told: ready.append(told))
        running = asyncio.create_task(supervisor.run())
        await until(lambda: len(ready) == sum(map(len, stages)))
        await use(supervisor, ready)
        await supervisor.stop(grace_seconds)
        async with asyncio.timeout(30):
            await running

    asyncio.run(run())
    return lines


def test_a_program_that_dies_is_started_again():
    one = program("one", SERVE)

    async def use(supervisor, ready):
        first = supervisor.pid(one)
        os.kill(first, 9)
        await until(lambda: ready == [("one", "here")] * 2)
        assert supervisor.pid(one) != first

    assert ("one", "ended with exit code -9; starting it again in 0.2 s") in supervise([[one]], use)


def test_a_program_that_never_gets_ready_is_not_started_again():
    with pytest.raises(ChildFailedError, match="broken ended with exit code 3 before it was ready") as raised:
        asyncio.run(silently([[program("broken", "raise SystemExit(3)")], [program("fine", SERVE)]]).run())
    assert raised.value.code == 3


def test_a_program_that_only_prints_that_it_is_ready_is_not():
    shown = []
    boaster = program("boaster", "print('ready: boaster on 127.0.0.1:1'); raise SystemExit(3)")
    supervisor = Supervisor([[boaster]], lambda *line: shown.append(line), lambda *told: pytest.fail(f"{told}"))
    with pytest.raises(ChildFailedError, match="boaster ended with exit code 3 before it was ready"):
        asyncio.run(supervisor.run())
    assert shown == [("boaster", "ready: boaster on 127.0.0.1:1")]


def test_the_last_stage_is_stopped_first_and_nothing_is_left():
    say_goodbye = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye'))); "
    first, second = program("first", say_goodbye + SERVE), program("second", say_goodbye + SERVE)
    pids = []

    async def use(supervisor, ready):
        pids.extend((supervisor.pid(first), supervisor.pid(second)))

    lines = supervise([[first], [second]], use)
    assert lines.index(("second", "bye")) < lines.index(("first", "bye"))
    assert not any(is_alive(pid) for pid in pids)


def test_a_program_that_does_not_end_is_killed_after_the_grace():
    stubborn = program("stubborn", STUBBORN)
    pids = []

    async def use(supervisor, ready):
        pids.append(supervisor.pid(stubborn))

    started = time.monotonic()
    supervise([[stubborn]], use, grace_seconds=0.3)
    assert time.monotonic() - started < 30
    assert not is_alive(pids[0])


def test_a_program_waits_for_those_that_it_comes_after(tmp_path):
    loaded = tmp_path / "loaded"
    first = program("first", f"import time; time.sleep(0.3); open({str(loaded)!r}, 'w').close(); {SERVE}")
    second = replace(program("second", f"import os; assert os.path.exists({str(loaded)!r}); {SERVE}"), after=(first,))

    async def use(supervisor, ready):
        assert ready == [("first", "here"), ("second", "here")]

    supervise([[first], [second]], use)


def test_one_that_waits_is_not_started_when_all_are_stopped():
    slow = program("slow", "import time; time.sleep(60)")
    later = replace(program("later", SERVE), after=(slow,))

    async def run():
        lines = []
        supervisor = Supervisor(
            [[slow], [later]], lambda *line: lines.append(line), lambda *told: pytest.fail(f"{told}")
        )
        running = asyncio.create_task(supervisor.run())
        await asyncio.sleep(0.1)
        await supervisor.stop(5)
        async with asyncio.timeout(30):
            await running
        assert lines == []

    asyncio.run(run())


@pytest.mark.parametrize("num_ticks", range(4))
def test_stopping_while_programs_start_leaves_nothing_running(num_ticks: int):
    async def run():
        supervisor = silently([[program("one", SERVE)], [program("two", SERVE)]])
        running = asyncio.create_task(supervisor.run())
        for _ in range(num_ticks):
            await asyncio.sleep(0)
        await supervisor.stop(5)
        async with asyncio.timeout(30):
            await running

    asyncio.run(run())
