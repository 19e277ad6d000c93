"""A real process that tries grammars, and what becomes of it and of hostile grammars."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hostile import HOSTILE_REGEX, LARGE_SCHEMA, hostile_schema
from waiting import wait_until

from expertmesh.engine.messages import EngineError
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.grammars.trial_worker import TrialWorker
from expertmesh.gateway.grammars.verdict import TrialSettings

SCHEMA = ("json_schema", '{"type": "object"}')


@pytest.fixture(scope="module")
def settings(tokenizer_directory: Path) -> TrialSettings:
    return TrialSettings(str(tokenizer_directory), [2], 32000)


@pytest.fixture
def worker(settings: TrialSettings) -> Iterator[TrialWorker]:
    with closing(TrialWorker(settings)) as worker:
        yield worker


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def attempt_in_thread(worker: TrialWorker, source: str) -> tuple[threading.Thread, list[Exception]]:
    """Begin a trial, and return its thread once a child is at work, and where its error will be."""
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            worker.attempt("json_schema", source)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: worker.pid is not None and children_of(worker.pid))
    return thread, errors


def test_a_grammar_passes_or_is_refused_by_its_reason(worker: TrialWorker):
    assert worker.attempt(*SCHEMA) >= 0
    assert worker.attempt("json_schema", LARGE_SCHEMA) > 20 << 20
    with pytest.raises(InvalidRequestError, match="^the regular expression cannot be used: unclosed group$"):
        worker.attempt("regex", "(")
    with pytest.raises(EngineError, match="no_such_kind"):
        worker.attempt("no_such_kind", "")
    assert worker.attempt("regex", "a|\n|ü|\U0001f600") >= 0


@pytest.mark.parametrize(
    ("kind", "source"),
    [("json_schema", hostile_schema(24)), ("json_schema", hostile_schema(200)), ("regex", HOSTILE_REGEX)],
    ids=["24", "200", "regex"],
)
def test_what_takes_too_much_is_refused_and_the_next_grammar_passes(worker: TrialWorker, kind: str, source: str):
    worker.attempt(*SCHEMA)
    pid = worker.pid
    with pytest.raises(InvalidRequestError, match=r"more than (2 s|512 MiB) to compile; fewer patterns .* would help"):
        worker.attempt(kind, source)
    worker.attempt(*SCHEMA)
    assert worker.pid == pid


def test_what_takes_too_long_is_refused_and_the_next_grammar_passes(settings: TrialSettings):
    with closing(TrialWorker(msgspec.structs.replace(settings, max_bytes=4 << 30, max_seconds=1))) as worker:
        with pytest.raises(InvalidRequestError, match="more than 1 s to compile"):
            worker.attempt("json_schema", hostile_schema(200))
        worker.attempt(*SCHEMA)


def test_what_takes_too_much_memory_is_refused_and_the_next_grammar_passes(settings: TrialSettings):
    with closing(TrialWorker(msgspec.structs.replace(settings, max_bytes=16 << 20, max_seconds=20))) as worker:
        for source in (LARGE_SCHEMA, hostile_schema(24)):
            with pytest.raises(InvalidRequestError, match="more than 16 MiB to compile"):
                worker.attempt("json_schema", source)
            worker.attempt(*SCHEMA)


def test_whoever_stops_a_trial_ends_all_its_processes(worker: TrialWorker):
    thread, errors = attempt_in_thread(worker, hostile_schema(200))
    pid = worker.pid
    assert pid is not None
    [child] = children_of(pid)
    worker.stop()
    thread.join()
    assert isinstance(errors[0], EngineError)
    wait_until(lambda: not is_running(child) and not is_running(pid))
    worker.attempt(*SCHEMA)


def test_a_process_that_dies_is_replaced(worker: TrialWorker):
    worker.attempt(*SCHEMA)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(worker.pid or 0))
    worker.attempt(*SCHEMA)
    thread, errors = attempt_in_thread(worker, hostile_schema(200))
    os.kill(worker.pid, signal.SIGKILL)
    thread.join()
    assert "the process that tries grammars is gone" in str(errors[0])
    worker.attempt(*SCHEMA)


def test_no_process_outlives_an_engine_that_is_killed(settings: TrialSettings):
    code = """if True:
        import sys, threading, time, msgspec
        from expertmesh.gateway.grammars.trial_worker import TrialWorker
        from expertmesh.gateway.grammars.verdict import TrialSettings
        worker = TrialWorker(msgspec.json.decode(sys.argv[1], type=TrialSettings))
        worker.attempt("json_object", "")
        print(worker.pid, flush=True)
        worker.attempt("json_schema", sys.argv[2])
    """
    argv = [sys.executable, "-c", code, msgspec.json.encode(settings).decode(), hostile_schema(200)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        pid = int(engine.stdout.readline())
        wait_until(lambda: children_of(pid))
        [child] = children_of(pid)
        engine.kill()
    wait_until(lambda: not is_running(pid) and not is_running(child))
