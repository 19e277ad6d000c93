"""A random Mixtral as AWQ files, drawn where that is fast: as the words of the files. Knows files, not engines."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copy

import torch

from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.kernels.awq import AwqTensors
from expertmesh.kernels.nibbles import CODES_PER_WORD
from peers.checkpoint import GROUP_SIZE, QUANTIZATION, Shape, check_same, files_of, finish, save_shard, tokenizer_file

ZEROS = -0x77777778  # 0x88888888 as int32: eight times 8
# Root mean square of a code less its zero point, which is uniform.
CODE_SIZE = 4.6
NUM_WRITERS = 8


def write_awq(directory: Path, shape: Shape, device: torch.device) -> None:
    """Write the checkpoint unless it is there; ValueError when the one that is there has another shape."""
    config, weight_map = {**shape.config(), "quantization_config": QUANTIZATION}, dict[str, str]()
    if (directory / "config.json").exists():
        check_same(directory / "config.json", config)
        return
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        written = [
            writers.submit(save_shard, directory, file, draw(specs, device), weight_map)
            for file, specs in files_of(shape)
        ]
    for writing in written:
        writing.result()
    copy(tokenizer_file(), directory / "tokenizer.model")
    finish(directory, config, weight_map)


def draw(specs: Iterable[TensorSpec], device: torch.device) -> dict[str, torch.Tensor]:
    """Draw tensors by the names that they have in files."""
    tensors: dict[str, torch.Tensor] = {}
    for spec in specs:
        parts = _draw_packed(spec, device).as_dict() if spec.is_quantizable else {"weight": _draw_dense(spec, device)}
        tensors |= {f"{spec.name}.{part}": tensor.cpu() for part, tensor in parts.items()}
    return tensors


def _draw_packed(spec: TensorSpec, device: torch.device) -> AwqTensors:
    """Draw a matrix whose products have about the size of their input."""
    num_out, num_in = spec.shape
    num_groups, num_words = num_in // GROUP_SIZE, num_out // CODES_PER_WORD
    scales = torch.rand(num_groups, num_out, device=device).add_(0.5).div_(CODE_SIZE * num_in**0.5)
    return AwqTensors(
        qweight=torch.randint(-(2**31), 2**31, (num_in, num_words), dtype=torch.int32, device=device),
        qzeros=torch.full((num_groups, num_words), ZEROS, dtype=torch.int32, device=device),
        scales=scales.half(),
    )


def _draw_dense(spec: TensorSpec, device: torch.device) -> torch.Tensor:
    if len(spec.shape) == 1:
        return torch.ones(spec.shape, dtype=torch.bfloat16)
    values = torch.randn(spec.shape, device=device)
    return (values if spec.role == "embedding" else values.mul_(spec.shape[1] ** -0.5)).bfloat16()
