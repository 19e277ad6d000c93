"""Finding the factors that make a checkpoint lose less when it is rounded, once per output directory.

Knows the order of layers and where the factors are kept until the checkpoint is written, not how they are found.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from expertmesh.calibration.activations import ForwardPass
from expertmesh.calibration.attention_scales import rescale_attention
from expertmesh.calibration.expert_scales import rescale_experts
from expertmesh.calibration.samples import Sequences, read_samples
from expertmesh.calibration.search import Round
from expertmesh.calibration.weights import PlainWeights
from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.quantizer import Recipe, check
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.rescale import Rescale, load, save
from expertmesh.errors import CheckpointError
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.weights import QuantizedWeight
from expertmesh.model.backends import open_backend
from expertmesh.text.tokenizer import Tokenizer

FILE = "calibration.safetensors"

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibrationConfig:
    """Calibrate on the first ``max_tokens`` tokens of the file ``text``, computing on ``device``."""

    text: Path
    max_tokens: int
    device: str


def calibrate_once(
    checkpoint: Checkpoint, directory: Path, recipe: Recipe, config: CalibrationConfig, report: Report
) -> Mapping[str, Rescale]:
    """Take over the factors that an interrupted run left in ``directory``, or ``calibrate`` and keep them there.

    ConfigError when the text is of no use or the device cannot be opened; other errors as ``calibrate``.
    """
    check(checkpoint, recipe)
    sequences = _read_sequences(checkpoint, config)
    path, mark = directory / FILE, _mark(checkpoint, recipe, sequences)
    kept = load(path, mark)
    if kept is not None:
        return kept
    # Plain float32 matrices gain nothing from other backends, and this one runs on every device.
    backend = open_backend("reference", config.device)
    rescales = calibrate(checkpoint, recipe, sequences, backend, report)
    directory.mkdir(parents=True, exist_ok=True)
    save(path, rescales, mark)
    return rescales


def forget(directory: Path) -> None:
    """Remove what ``calibrate_once`` kept, once the checkpoint is written."""
    (directory / FILE).unlink(missing_ok=True)


def calibrate(
    checkpoint: Checkpoint, recipe: Recipe, sequences: Sequences, backend: Backend, report: Report
) -> dict[str, Rescale]:
    """Find factors, by matrix name, with which ``recipe`` loses least on ``sequences``; ``report`` counts layers.

    Computed in float32, layer by layer; besides what the tokens need, one expert is in memory at a time.
    CheckpointError when the checkpoint is quantized already or a matrix does not fit the groups, ComputeError when
    values are not finite.
    """
    check(checkpoint, recipe)
    config = checkpoint.model
    rounding = _rounding(checkpoint, recipe)
    forward = ForwardPass(config, PlainWeights(checkpoint, backend.device), backend, sequences)
    rescales: dict[str, Rescale] = {}
    for layer in range(config.num_layers):
        rescales |= rescale_attention(forward, layer, rounding) | rescale_experts(forward, layer, rounding)
        report(layer + 1, config.num_layers)
    return {name: rescale.cpu() for name, rescale in rescales.items()}


def _read_sequences(checkpoint: Checkpoint, config: CalibrationConfig) -> Sequences:
    model, tokenizer = checkpoint.model, Tokenizer.open(checkpoint.directory, checkpoint.model.vocab_size)
    return read_samples(config.text, config.max_tokens, tokenizer, model.max_position_embeddings)


def _mark(checkpoint: Checkpoint, recipe: Recipe, sequences: Sequences) -> str:
    return hashlib.sha256(f"{fingerprint(checkpoint)} {recipe} {sequences}".encode()).hexdigest()


def _rounding(checkpoint: Checkpoint, recipe: Recipe) -> Round:
    def rounding(name: str, matrix: torch.Tensor) -> QuantizedWeight:
        try:
            return recipe.round(matrix)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.directory}: {name}: {error}") from error

    return rounding
