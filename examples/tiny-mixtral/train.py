"""Train the demo model from nothing: text, tokenizer, weights, checkpoints.

Usage: python examples/tiny-mixtral/train.py [--out DIR] [--steps N]

Everything is drawn from fixed seeds. Interrupted, it goes on from its last checkpoint in DIR/training.pt.
"""

import argparse
import json
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import corpus
import torch
from export import export_awq, export_bf16
from model import TinyConfig, TinyMixtral
from sentencepiece import SentencePieceProcessor
from text import VOCAB_SIZE, Example, encode, train_tokenizer
from torch.nn import functional as F

NUM_STEPS = 17_500
TOKENS_PER_STEP = 2048
LEARNING_RATE = 2.5e-3
WARMUP_STEPS = 200
DECAY_FROM = 0.6
QUANTIZE_FROM = 0.75
BALANCE_WEIGHT = 0.01
HELD_OUT_SEED = 7
SAVE_EVERY = 1000

Batch = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    """Train, export, and write the held-out conversations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where bf16/ and awq/ are written")
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_held_out(arguments.out / "heldout.jsonl")
    train_tokenizer(arguments.out / "tokenizer.model")
    tokenizer = SentencePieceProcessor(model_file=str(arguments.out / "tokenizer.model"))
    model = train(tokenizer, arguments.steps, arguments.out / "training.pt")
    export(arguments.out, model)
    (arguments.out / "training.pt").unlink(missing_ok=True)


def write_held_out(path: Path) -> None:
    """Write conversations that training never sees, one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for conversation in corpus.held_out(random.Random(HELD_OUT_SEED)):
            *history, (question, answer) = conversation.turns
            messages = [message for asked, told in history for message in (_user(asked), _assistant(told))]
            line = {"task": conversation.task, "messages": [*messages, _user(question)], "answer": answer}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def train(tokenizer: SentencePieceProcessor, num_steps: int, path: Path) -> TinyMixtral:
    """Run all steps, or those that are left after the checkpoint at ``path``."""
    torch.manual_seed(0)
    model = TinyMixtral(TinyConfig(VOCAB_SIZE))
    optimizer = _make_optimizer(model)
    first = _resume(path, model, optimizer)
    started = time.monotonic()
    mean_loss = None
    for step, (ids, targets) in enumerate(_batches(tokenizer)):
        if step == num_steps:
            break
        if step < first:
            continue
        loss = _train_step(model, optimizer, ids, targets, step / num_steps, step)
        mean_loss = loss if mean_loss is None else 0.98 * mean_loss + 0.02 * loss
        if step % 100 == 0:
            print(f"step {step} loss {mean_loss:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % SAVE_EVERY == 0:
            torch.save({"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return model


def export(directory: Path, model: TinyMixtral) -> None:
    """Write both checkpoints, each with the tokenizer."""
    state = model.state_by_hf_name()
    export_bf16(directory / "bf16", model.config, state)
    export_awq(directory / "awq", model.config, state)
    for name in ("bf16", "awq"):
        shutil.copy(directory / "tokenizer.model", directory / name / "tokenizer.model")
    (directory / "tokenizer.model").unlink()


def _train_step(
    model: TinyMixtral,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    targets: torch.Tensor,
    progress: float,
    step: int,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * _schedule(progress, step)
    wanted = targets >= 0
    logits, balance = model(ids, wanted, is_quantized=progress > QUANTIZE_FROM)
    loss = F.cross_entropy(logits, targets[wanted])
    (loss + BALANCE_WEIGHT * model.config.num_layers * balance).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _schedule(progress: float, step: int) -> float:
    """Warm up, hold, and fall linearly over the last part."""
    decay = 1.0 if progress < DECAY_FROM else max(0.02, (1 - progress) / (1 - DECAY_FROM))
    return min(1.0, step / WARMUP_STEPS) * decay


def _make_optimizer(model: TinyMixtral) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    norms = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)


def _resume(path: Path, model: TinyMixtral, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _batches(tokenizer: SentencePieceProcessor) -> Iterator[Batch]:
    """Draw conversations without end and batch those of about the same length."""
    rng = random.Random(0)
    waiting: dict[int, list[Example]] = defaultdict(list)
    while True:
        example = encode(tokenizer, corpus.training(rng).turns)
        length = -(-len(example[0]) // 4) * 4
        waiting[length].append(example)
        if len(waiting[length]) * length >= TOKENS_PER_STEP:
            yield _pad(waiting.pop(length), length)


def _pad(examples: list[Example], length: int) -> Batch:
    """Return ids [B, T] and targets [B, T]: the next id where it belongs to an answer, else -100."""
    ids = torch.zeros(len(examples), length, dtype=torch.int64)
    targets = torch.full_like(ids, -100)
    for row, (tokens, is_answer) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        following = torch.tensor(tokens[1:])
        targets[row, : len(tokens) - 1] = following.masked_fill(~torch.tensor(is_answer[1:]), -100)
    return ids, targets


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


if __name__ == "__main__":
    main()
