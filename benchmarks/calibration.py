"""What rounding takes from a model, plain and with calibration: the shipped one on its held-out conversations.

Usage: python benchmarks/calibration.py [--small] [--json FILE]

Each checkpoint is written as `expertmesh quantize` does, calibrated on text drawn from the training conversations, and
read with float32 activations. The error is that of all logits relative to those of the bfloat16 checkpoint (root mean
square), the perplexity that of the answers' tokens, both the mean over calibration texts. The shipped model is trained
to be rounded and its channels are about equally large. In a second copy of it, which computes exactly the same, some
channels behind each norm are 16 times as large and the weights that read them as much smaller: outliers by design.
"""

import json
import math
import random
import shutil
import statistics
import sys
from collections.abc import Sequence
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
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts
from expertmesh.model.kv_cache import KVCache
from expertmesh.text.conversation import Message
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.tokenizer import Tokenizer

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-mixtral"
MODEL = EXAMPLE / "bf16"
OUTLIERS, OUTLIER_FACTOR = (3, 40, 101), 16
READ_BY = ("q_proj", "k_proj", "v_proj", "gate", "w1", "w3")


@dataclass(frozen=True)
class Sizes:
    """How much is measured: formats, calibration texts by their seeds, their tokens, held-out conversations.

    A text is of ``num_conversations``, of the order of 20 tokens each: more than calibration takes.
    """

    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    max_tokens: int
    num_conversations: int
    num_held_out: int


FULL = Sizes((Recipe("awq", 4, 64), Recipe("gptq", 3, 64)), (1, 2, 3), 2048, 1000, 400)
SMALL = Sizes((Recipe("awq", 4, 64),), (1,), 128, 100, 20)


@dataclass(frozen=True)
class Conversations:
    """Sequences of token ids, and which tokens belong to answers, over all of them."""

    sequences: tuple[tuple[int, ...], ...]
    is_answer: torch.Tensor


def read_held_out(tokenizer: Tokenizer, count: int) -> Conversations:
    """Read the first ``count`` conversations that training never saw, with the answers to their last questions."""
    sequences, is_answer, template = [], [], InstTemplate(tokenizer)
    assert tokenizer.eos_id is not None  # InstTemplate takes no tokenizer without
    for line in (EXAMPLE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        conversation = json.loads(line)
        prompt = template.encode([Message(**message) for message in conversation["messages"]])
        answer = [*tokenizer.encode(conversation["answer"]), tokenizer.eos_id]
        sequences.append((*prompt, *answer))
        is_answer += [False] * len(prompt) + [True] * len(answer)
    return Conversations(tuple(sequences), torch.tensor(is_answer))


def write_texts(directory: Path, sizes: Sizes) -> list[CalibrationConfig]:
    """Write training conversations in the [INST] form, a text per seed."""
    sys.path.insert(0, str(EXAMPLE))
    import corpus

    configs = []
    for seed in sizes.seeds:
        rng = random.Random(seed)
        turns = (turn for _ in range(sizes.num_conversations) for turn in corpus.training(rng).turns)
        path = directory / f"{seed}.txt"
        path.write_text("\n".join(f"[INST] {asked} [/INST] {answer}" for asked, answer in turns), encoding="utf-8")
        configs.append(CalibrationConfig(path, sizes.max_tokens, "cpu"))
    return configs


def read_logits(directory: Path, conversations: Conversations) -> torch.Tensor:
    """Run the checkpoint over whole conversations; returns the logits of every token [T, V]."""
    checkpoint = Checkpoint.open(directory)
    config = checkpoint.model
    backend = ReferenceBackend(torch.device("cpu"))
    batch = lay_out(conversations.sequences, backend.device)
    batch = replace(batch, sample_rows=torch.arange(len(batch.token_ids)))
    cache = KVCache(config, len(batch.query_lens), max(batch.query_lens), torch.float32, backend.device)
    decoder = Decoder.load(config, checkpoint, backend, torch.float32)
    return decoder.forward(batch, cache, LocalExperts.load(config, checkpoint, backend))


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


def write_rounded(model: Path, out: Path, recipe: Recipe, config: CalibrationConfig | None) -> Path:
    """Quantize a model as the command does, calibrated on a text or not at all; returns where."""
    checkpoint = Checkpoint.open(model)
    rescales = calibrate_once(checkpoint, out, recipe, config, silent) if config else None
    quantize(checkpoint, out, recipe, silent, rescales)
    return out


def silent(done: int, total: int) -> None:
    """Show no progress."""


def compare(
    case: str, model: Path, recipe: Recipe, conversations: Conversations, texts: list[CalibrationConfig], out: Path
) -> list[Row]:
    """Measure plain rounding and that calibrated on some texts."""
    expected = read_logits(model, conversations)
    plain = read_logits(write_rounded(model, out / "plain", recipe, None), conversations)
    calibrated = [
        read_logits(write_rounded(model, out / text.text.stem, recipe, text), conversations) for text in texts
    ]
    case = f"{case}, {recipe.method} {recipe.bits}-bit g{recipe.group_size}"
    error = statistics.mean(relative_error(logits, expected) for logits in calibrated)
    perplexities = statistics.mean(perplexity(logits, conversations) for logits in calibrated)
    return [
        Row(case, "logits error", error, "", "plain rounding", relative_error(plain, expected)),
        Row(case, "perplexity", perplexities, "", "plain rounding", perplexity(plain, conversations)),
    ]


def measure(directory: Path, sizes: Sizes) -> list[Row]:
    """Compare on the model as it is and with outliers."""
    conversations = read_held_out(Tokenizer.open(MODEL), sizes.num_held_out)
    texts = write_texts(directory, sizes)
    rows = [Row("bfloat16", "perplexity", perplexity(read_logits(MODEL, conversations), conversations), "")]
    for case, model in (("as shipped", MODEL), ("with outliers", write_with_outliers(directory))):
        for recipe in sizes.recipes:
            rows += compare(case, model, recipe, conversations, texts, directory / f"{model.name}-{recipe.method}")
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Print what each format loses."""
    arguments = parse_arguments(__doc__).parse_args(argv)
    torch.set_num_threads(1)  # the model is so small that more would only wait for one another
    with TemporaryDirectory() as directory:
        rows = measure(Path(directory), SMALL if arguments.small else FULL)
    show("Rounded plainly and with calibration", rows, arguments.json)


if __name__ == "__main__":
    main()
