"""What rounding takes from a model, plain and with calibration: the shipped one on its held-out conversations.

Usage: python benchmarks/calibration.py [--json FILE]

Each checkpoint is written as `expertmesh quantize` does, calibrated on text drawn from the training conversations, and
read with float32 activations. The error is that of all logits relative to those of the bfloat16 checkpoint (root mean
square), the perplexity that of the answers' tokens, both the mean over calibration texts. The shipped model is trained
to be rounded and its channels are about equally large. In a second copy of it, which computes exactly the same, some
channels behind each norm are 16 times as large and the weights that read them as much smaller: outliers by design.
"""

import asyncio
import json
import math
import random
import shutil
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from report import Row, parse_arguments, show
from safetensors.torch import load_file, save_file

from expertmesh.calibration.activations import lay_out
from expertmesh.calibration.calibrate import CalibrationConfig, calibrate_once
from expertmesh.checkpoint.quantizer import Recipe, quantize
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.model.config import ModelConfig
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts
from expertmesh.model.kv_cache import KVCache
from expertmesh.text.template import Message, encode_chat
from expertmesh.text.tokenizer import Tokenizer

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-mixtral"
MODEL = EXAMPLE / "bf16"
RECIPES = (Recipe("awq", 4, 64), Recipe("gptq", 3, 64))
OUTLIERS, OUTLIER_FACTOR = (3, 40, 101), 16
READ_BY = ("q_proj", "k_proj", "v_proj", "gate", "w1", "w3")
# Of the order of 20 tokens each: more than calibration takes.
NUM_CONVERSATIONS = 1000
SEEDS = (1, 2, 3)
MAX_TOKENS = 2048


@dataclass(frozen=True)
class Conversations:
    """Sequences of token ids, and which tokens belong to answers, over all of them."""

    sequences: tuple[tuple[int, ...], ...]
    is_answer: torch.Tensor


def read_held_out(tokenizer: Tokenizer) -> Conversations:
    """Read the conversations that training never saw, with the answers to their last questions."""
    sequences, is_answer = [], []
    for line in (EXAMPLE / "heldout.jsonl").read_text(encoding="utf-8").splitlines():
        conversation = json.loads(line)
        prompt = encode_chat(tokenizer, [Message(**message) for message in conversation["messages"]])
        answer = [*tokenizer.encode(conversation["answer"]), tokenizer.eos_id]
        sequences.append((*prompt, *answer))
        is_answer += [False] * len(prompt) + [True] * len(answer)
    return Conversations(tuple(sequences), torch.tensor(is_answer))


def write_text(path: Path, seed: int) -> None:
    """Write training conversations in the [INST] form."""
    sys.path.insert(0, str(EXAMPLE))
    import corpus

    rng = random.Random(seed)
    turns = (turn for _ in range(NUM_CONVERSATIONS) for turn in corpus.training(rng).turns)
    path.write_text("\n".join(f"[INST] {question} [/INST] {answer}" for question, answer in turns), encoding="utf-8")


def read_logits(directory: Path, conversations: Conversations) -> torch.Tensor:
    """Run the checkpoint over whole conversations; returns the logits of every token [T, V]."""
    checkpoint = Checkpoint.open(directory)
    config = ModelConfig.from_dict(checkpoint.config)
    backend = ReferenceBackend(torch.device("cpu"))
    batch = lay_out(conversations.sequences, backend.device)
    batch = replace(batch, sample_rows=torch.arange(len(batch.token_ids)))
    cache = KVCache(config, len(batch.query_lens), max(batch.query_lens), torch.float32, backend.device)
    decoder = Decoder.load(config, checkpoint, backend, torch.float32)
    return asyncio.run(decoder.forward(batch, cache, LocalExperts.load(config, checkpoint, backend)))


def perplexity(logits: torch.Tensor, conversations: Conversations) -> float:
    """Perplexity of the answers' tokens, each predicted from the row before it."""
    wanted = torch.tensor([token for sequence in conversations.sequences for token in sequence])
    losses = torch.nn.functional.cross_entropy(logits[:-1], wanted[1:], reduction="none")
    return math.exp(losses[conversations.is_answer[1:]].mean())


def relative_error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference over that of what is expected."""
    return float((logits - expected).norm() / expected.norm())


def write_with_outliers(directory: Path) -> Path:
    """Copy the model with large channels behind its norms; a power of two leaves every product as it was."""
    out = directory / "outliers"
    shutil.copytree(MODEL, out)
    tensors = load_file(MODEL / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("layernorm.weight"):
            tensor[list(OUTLIERS)] *= OUTLIER_FACTOR
        elif name.split(".")[-2] in READ_BY:
            tensor[:, list(OUTLIERS)] /= OUTLIER_FACTOR
    save_file(tensors, out / "model.safetensors")
    return out


def write_rounded(model: Path, out: Path, recipe: Recipe, text: Path | None) -> Path:
    """Quantize a model as the command does, calibrated on ``text`` or not at all; returns where."""
    checkpoint, rescales = Checkpoint.open(model), None
    if text is not None:
        rescales = calibrate_once(checkpoint, out, recipe, CalibrationConfig(text, MAX_TOKENS, "cpu"), silent)
    quantize(checkpoint, out, recipe, silent, rescales)
    return out


def silent(done: int, total: int) -> None:
    """Show no progress."""


def compare(case: str, model: Path, recipe: Recipe, conversations: Conversations, directory: Path) -> list[Row]:
    """Measure plain rounding and that calibrated on some texts."""
    out = directory / f"{model.name}-{recipe.method}"
    expected = read_logits(model, conversations)
    plain = read_logits(write_rounded(model, out / "plain", recipe, None), conversations)
    calibrated = []
    for seed in SEEDS:
        text = directory / f"{seed}.txt"
        write_text(text, seed)
        calibrated.append(read_logits(write_rounded(model, out / str(seed), recipe, text), conversations))
    case = f"{case}, {recipe.method} {recipe.bits}-bit g{recipe.group_size}"
    error = statistics.mean(relative_error(logits, expected) for logits in calibrated)
    perplexities = statistics.mean(perplexity(logits, conversations) for logits in calibrated)
    return [
        Row(case, "logits error", error, "", "plain rounding", relative_error(plain, expected)),
        Row(case, "perplexity", perplexities, "", "plain rounding", perplexity(plain, conversations)),
    ]


def measure(directory: Path) -> list[Row]:
    """Compare on the model as it is and with outliers."""
    conversations = read_held_out(Tokenizer.open(MODEL))
    rows = [Row("bfloat16", "perplexity", perplexity(read_logits(MODEL, conversations), conversations), "")]
    for case, model in (("as shipped", MODEL), ("with outliers", write_with_outliers(directory))):
        for recipe in RECIPES:
            rows += compare(case, model, recipe, conversations, directory)
    return rows


def main() -> None:
    """Print what each format loses."""
    arguments = parse_arguments(__doc__).parse_args()
    with TemporaryDirectory() as directory:
        rows = measure(Path(directory))
    show("Rounded plainly and with calibration", rows, arguments.json)


if __name__ == "__main__":
    main()
