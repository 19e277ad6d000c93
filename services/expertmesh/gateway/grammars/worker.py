"""A process that tries grammars, each in a child of its own that ends at its limits. Knows no engine.

Standard input says whose vocabulary it is, then one grammar after the other, a line each; each is answered with a line
before the next may come. The process ends with its input, and takes along a child that is at work.
"""

import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import msgspec

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.grammars.verdict import Candidate, TrialSettings, Verdict

if TYPE_CHECKING:
    from expertmesh.text.constraint import GrammarCompiler

# Where others leave a trial too little of a processor to use up its time.
PATIENCE = 5
# Steps come first, but a trial shall end while its client is there.
NICENESS = 5


def main() -> None:
    """Try grammars until the input ends."""
    os.nice(NICENESS)
    lines = sys.stdin.buffer
    settings = msgspec.json.decode(lines.readline(), type=TrialSettings)
    compiler = _prepare(settings)
    for line in iter(lines.readline, b""):
        verdict = _try(compiler, settings, msgspec.json.decode(line, type=Candidate), lines)
        sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
        sys.stdout.buffer.flush()


def _prepare(settings: TrialSettings) -> "GrammarCompiler":
    # A child has but the thread that forked it.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from expertmesh.text.constraint import GrammarCompiler
    from expertmesh.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.open(Path(settings.directory), settings.vocab_size)
    compiler = GrammarCompiler(tokenizer, settings.eos_ids, settings.vocab_size)
    compiler.prepare()
    return compiler


def _try(compiler: "GrammarCompiler", settings: TrialSettings, candidate: Candidate, lines: BinaryIO) -> Verdict:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_tried(compiler, settings, candidate, writing)
    os.close(writing)
    with open(reading, "rb") as answer:
        try:
            is_late = not _wait(answer, lines, PATIENCE * settings.max_seconds)
        except SystemExit:
            os.kill(pid, signal.SIGKILL)
            raise
        if is_late:
            os.kill(pid, signal.SIGKILL)
        said = answer.read()
    status = os.waitpid(pid, 0)[1]
    return msgspec.json.decode(said, type=Verdict) if status == 0 else _explain(settings, status, is_late)


def _wait(answer: BinaryIO, lines: BinaryIO, seconds: float) -> bool:
    """Wait until a child has said something or ended; tell whether it did in time. SystemExit when nobody waits."""
    ready, _, _ = select.select([answer, lines], [], [], seconds)
    if lines in ready:
        sys.exit()
    return answer in ready


def _explain(settings: TrialSettings, status: int, is_late: bool) -> Verdict:
    """Say why a child has died: of its time, or of what it could not allocate."""
    is_too_long = is_late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    limit = f"{settings.max_seconds} s" if is_too_long else f"{settings.max_bytes >> 20} MiB"
    return Verdict(
        refusal=f"the grammar takes more than {limit} to compile; "
        "fewer patterns for the same text (allOf), a shorter one or a smaller multipleOf would help"
    )


def _be_tried(compiler: "GrammarCompiler", settings: TrialSettings, candidate: Candidate, writing: int) -> NoReturn:
    """Compile in a child, and end with 0 once all is said."""
    code = 1
    try:
        _be_silent()
        _limit_itself(settings)
        os.write(writing, msgspec.json.encode(_compile(compiler, candidate)))
        code = 0
    finally:
        os._exit(code)


def _be_silent() -> None:
    """Leave the streams to the parent: its reader hears when it dies, and nobody of what finds no memory."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _limit_itself(settings: TrialSettings) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, settings.max_seconds)
    if sys.platform == "linux":
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, num_pages * resource.getpagesize() + settings.max_bytes)


def _lower(kind: int, limit: int) -> None:
    """Set a limit, unless there is a lower one."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _compile(compiler: "GrammarCompiler", candidate: Candidate) -> Verdict:
    from expertmesh.text.grammar import Grammar, GrammarKind

    num_before = _peak_bytes()
    try:
        compiler.compile(Grammar(GrammarKind(candidate.kind), candidate.source))
    except InvalidRequestError as error:
        return Verdict(refusal=str(error), param=error.param)
    except MemoryError:
        raise  # told by the parent, like what the library cannot allocate
    except Exception as error:  # told where there is a log
        return Verdict(failure=repr(error))
    return Verdict(_peak_bytes() - num_before)


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
