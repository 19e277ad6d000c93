"""vLLM on the GPU of this process, from the same AWQ files. Knows no other engine.

Usage: python -m peers.vllm_awq CHECKPOINT CASE...; prints a line of JSON: its name, and tokens per second by case.
A decode is the time of an answer less that of its first token.
"""

import json
import sys
import time
from functools import partial

from vllm import LLM, SamplingParams

from peers.cases import Case, measure

LONGEST = 8192


def rate(llm: LLM, case: Case) -> float:
    """Return tokens per second."""
    first = seconds(llm, case, 1)
    if not case.new_tokens:
        return case.batch * case.prompt_tokens / first
    return case.batch * case.new_tokens / (seconds(llm, case, 1 + case.new_tokens) - first)


def seconds(llm: LLM, case: Case, num_tokens: int) -> float:
    """Time the answers to all prompts of a case."""
    sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": prompt} for prompt in case.prompts()]
    started = time.perf_counter()
    llm.generate(prompts, sampling, use_tqdm=False)
    return time.perf_counter() - started


def main() -> None:
    """Load, measure, print."""
    llm = LLM(model=sys.argv[1], skip_tokenizer_init=True, enable_prefix_caching=False, max_model_len=LONGEST)
    print(json.dumps(["vllm", measure(partial(rate, llm), sys.argv[2:])]), flush=True)


if __name__ == "__main__":
    main()
