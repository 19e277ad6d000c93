"""llama.cpp with a Q4_0 file, through the low-level API of llama-cpp-python. Knows no torch and no other engine.

Usage: python -m peers.llama BF16_CHECKPOINT GGUF THREADS CASE...; writes the file if it is missing, then prints a
line of JSON: the name of the engine, and tokens per second by case. docs/benchmarks.md says how to build
llama-cpp-python 0.3.36 for processors with AMX, on which it crashes otherwise.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from peers.cases import VOCAB_SIZE, Case, measure, rate_of
from peers.gguf_file import write_gguf

CONTEXT_MULTIPLE = 256
GGML_LOG_LEVEL_ERROR = 4  # of ggml.h


class LlamaSession:
    """Sequences of equal length in a context of llama.cpp."""

    def __init__(self, context: Any, batch: Any) -> None:
        self._context = context
        self._batch = batch
        self._position = 0
        self._next: list[int] = []

    def prefill(self, prompts: list[list[int]]) -> None:
        """See ``Session``."""
        self._decode(prompts)

    def step(self) -> None:
        """See ``Session``."""
        self._decode([[token] for token in self._next])

    def _decode(self, tokens: list[list[int]]) -> None:
        """Compute new tokens, equally many per sequence, and choose the most probable next ones."""
        last = self._fill(tokens)
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status:
            raise RuntimeError(f"llama_decode answered {status} for {self._batch.n_tokens} tokens")
        self._position += len(tokens[0])
        self._next = [self._most_probable(index) for index in last]

    def _fill(self, tokens: list[list[int]]) -> list[int]:
        """Lay out the batch; returns the places of each sequence's last token, whose logits are wanted."""
        batch = self._batch
        batch.n_tokens = sum(map(len, tokens))
        rows = [
            (token, self._position + offset, sequence, offset == len(new) - 1)
            for sequence, new in enumerate(tokens)
            for offset, token in enumerate(new)
        ]
        for index, (token, position, sequence, is_last) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = is_last
        return [index for index, row in enumerate(rows) if row[3]]

    def _most_probable(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        return int(np.ctypeslib.as_array(logits, (VOCAB_SIZE,)).argmax())


@llama_cpp.llama_log_callback
def print_failures(level: int, text: bytes, user_data: object) -> None:
    """Pass on what llama.cpp logs as an error."""
    if level == GGML_LOG_LEVEL_ERROR:
        sys.stderr.write(text.decode(errors="replace"))


@contextmanager
def open_model(path: Path) -> Iterator[Any]:
    """Load a GGUF; weights are repacked for this CPU, as is llama.cpp's default."""
    llama_cpp.llama_log_set(print_failures, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}; its log above says why")
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


@contextmanager
def open_session(model: Any, threads: int, case: Case) -> Iterator[LlamaSession]:
    """Make a context that holds the sequences of a case."""
    params = llama_cpp.llama_context_default_params()
    params.n_seq_max = case.batch
    length = -(-(case.prompt_tokens + case.new_tokens + 1) // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE
    params.n_ctx = case.batch * length
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(f"llama.cpp cannot make a context of {params.n_ctx} tokens; its log above says why")
    batch = llama_cpp.llama_batch_init(case.batch * case.prompt_tokens, 0, 1)
    try:
        yield LlamaSession(context, batch)
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)


def name_of(system_info: str) -> str:
    """Name the engine by what ``llama_print_system_info`` says that it was built with."""
    return f"llama.cpp Q4_0, AMX {'on' if 'AMX_INT8 = 1' in system_info else 'off'}"


def main() -> None:
    """Convert, load, measure, print."""
    bf16, path, threads, cases = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    write_gguf(bf16, path)
    with open_model(path) as model:
        rates = measure(partial(rate_of, open_session=partial(open_session, model, threads)), cases)
    name = name_of(llama_cpp.llama_print_system_info().decode())
    print(json.dumps([name, rates]), flush=True)


if __name__ == "__main__":
    main()
