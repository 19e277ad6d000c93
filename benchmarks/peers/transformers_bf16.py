"""transformers in bfloat16, with the fastest of its ways to run experts. Knows no other engine.

Usage: python -m peers.transformers_bf16 CHECKPOINT THREADS CASE...; prints a line of JSON per way: its name, and tokens
per second by case.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import DynamicCache, MixtralForCausalLM

from peers.cases import Case, measure, rate_of

# Those that run on a CPU, but for batched_mm: that copies the weights of an expert for every row that chose it.
IMPLEMENTATIONS = ("eager", "grouped_mm")


class TransformersSession:
    """Sequences of equal length in the KV cache of transformers."""

    def __init__(self, model: MixtralForCausalLM) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._next = torch.empty(0)

    def prefill(self, prompts: list[list[int]]) -> None:
        """See ``Session``."""
        self._forward(torch.tensor(prompts, device=self._model.device))

    def step(self) -> None:
        """See ``Session``."""
        self._forward(self._next)

    def _forward(self, token_ids: torch.Tensor) -> None:
        output = self._model(token_ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._next = output.logits.argmax(-1)  # [S, 1]
        if self._next.is_cuda:
            torch.cuda.synchronize()


@contextmanager
def open_session(model: MixtralForCausalLM, case: Case) -> Iterator[TransformersSession]:
    """Start the sequences of a case."""
    with torch.inference_mode():
        yield TransformersSession(model)


def main() -> None:
    """Load, measure every way, print."""
    directory, threads, cases = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(threads)
    model = MixtralForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    for implementation in IMPLEMENTATIONS:
        model.set_experts_implementation(implementation)
        rates = measure(partial(rate_of, open_session=partial(open_session, model)), cases)
        print(json.dumps([f"transformers bf16 {implementation}", rates]), flush=True)


if __name__ == "__main__":
    main()
