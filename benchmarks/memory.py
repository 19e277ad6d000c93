"""What an expert server keeps in memory beside the codes of its experts, and how fast it loads them.

Usage: python benchmarks/memory.py [--small] [--json FILE]

Writes one expert of Mixtral's width (4096, 14336) for a few layers, 4-bit in groups of 128 or in bfloat16, loads it as
an expert server does, and asks the kernel: resident bytes once loaded, and the most there ever were. Taken off is what
a process takes that imports torch and grpc and nothing else. The files are in the system's cache, so the disk does not
count; the peer is how fast they are copied from there, a matrix at a time into the same memory. What a GPU lays out
itself, the CPU lays out here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from layer import GROUP_SIZE, random_weight
from report import Row, parse_arguments, show
from safetensors.torch import save_file

from expertmesh.kernels.backend import Backend
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.weights import QuantizedWeight

REST = "rest.safetensors"
IMPORT_ONLY = "import grpc, torch"
NUM_LOADS = 3  # of which the best counts, as others use the machine too
COPIED_BYTES = 32 << 20  # about the codes of a matrix


@dataclass(frozen=True)
class Sizes:
    """How large an expert is, and how many layers have one."""

    hidden: int
    ffn: int
    num_layers: int

    def config(self, format: str) -> dict[str, object]:
        """Return what config.json says."""
        quantization = FORMATS[format]
        return {
            "architectures": ["MixtralForCausalLM"],
            "vocab_size": 64,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "num_local_experts": 1,
            "num_experts_per_tok": 1,
            "max_position_embeddings": 32768,
            **({"quantization_config": quantization} if quantization else {"torch_dtype": "bfloat16"}),
        }


MIXTRAL = Sizes(4096, 14336, num_layers=4)
SMALL = Sizes(256, 512, num_layers=2)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP_SIZE, "sym": False}
# What config.json says of the quantization.
FORMATS: dict[str, dict[str, object] | None] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP_SIZE, "version": "gemm"},
    "gptq": {**GPTQ, "desc_act": False},
    "gptq act-order": {**GPTQ, "desc_act": True},
    "bfloat16": None,
}
# Who loads what.
CASES = [
    *(("cpu", format) for format in FORMATS),
    *(("reference", format) for format in FORMATS if format != "gptq act-order"),
    *(("triton", format) for format in FORMATS),
]
SMALL_CASES = [("cpu", "awq"), ("triton", "gptq act-order")]


def store(matrix: QuantizedWeight, format: str) -> dict[str, torch.Tensor]:
    """Return the tensors that files hold of a matrix, by their parts."""
    from expertmesh.kernels import awq, gptq
    from expertmesh.kernels.quantize import dequantize

    if format == "bfloat16":
        return {"weight": dequantize(matrix, torch.bfloat16)}
    if format == "awq":
        return awq.pack(matrix).as_dict()
    order = torch.randperm(matrix.shape[1], generator=torch.Generator().manual_seed(0))
    is_ordered = format == "gptq act-order"
    # As format v1 has it, no zero point is 0.
    matrix = replace(matrix, zeros=matrix.zeros.clamp(min=1), perm=order if is_ordered else None)
    return gptq.pack(matrix).as_dict()


def write_checkpoint(directory: Path, sizes: Sizes, format: str) -> int:
    """Write the expert, a file per layer, and as little else as a model has; returns the bytes of the expert."""
    from expertmesh.architectures.registry import read_model, tensors_of

    config = sizes.config(format)
    table = tensors_of(read_model(config, directory / "config.json"))
    generator = torch.Generator().manual_seed(0)
    experts = [table.expert(layer, 0).values() for layer in range(sizes.num_layers)]
    rest = {
        f"{spec.name}.weight": torch.ones(spec.shape, dtype=torch.bfloat16) for spec in {*table}.difference(*experts)
    }
    save_file(rest, directory / REST)
    weight_map = dict.fromkeys(rest, REST)
    num_bytes = 0
    for layer, specs in enumerate(experts):
        tensors: dict[str, torch.Tensor] = {}
        for spec in specs:
            num_out, num_in = spec.shape
            parts = store(random_weight(num_out, num_in, generator), format)
            tensors |= {f"{spec.name}.{part}": tensor for part, tensor in parts.items()}
        file = f"layer-{layer}.safetensors"
        save_file(tensors, directory / file)
        weight_map |= dict.fromkeys(tensors, file)
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return num_bytes


def load_and_report(directory: Path, backend: str) -> None:
    """Load as an expert server does and print what the kernel says."""
    from expertmesh.checkpoint.reader import Checkpoint
    from expertmesh.expert.store import ExpertStore
    from expertmesh.rpc.allocator import give_back_freed_memory, keep_freed_memory

    give_back_freed_memory()
    checkpoint, taker = Checkpoint.open(directory), open_backend(backend)
    started = time.perf_counter()
    store = ExpertStore.load(checkpoint, checkpoint.model, [0], taker, lambda done, total: None)
    seconds = time.perf_counter() - started
    keep_freed_memory()
    assert store.layers
    print_memory(seconds)


def open_backend(name: str) -> Backend:
    """Open a backend on the CPU, that of GPUs too: its layout does not depend on them."""
    if name != "triton":
        return create_backend(name, torch.device("cpu"))
    from expertmesh.kernels.triton.backend import TritonBackend
    from expertmesh.kernels.triton.ops import Device

    return TritonBackend(torch.device("cpu"), Device(has_tensor_cores=True, has_ptx=True, packed=()))


def copy_and_report(directory: Path) -> None:
    """Copy the files of the layers into the same memory, again and again, and print what the kernel says."""
    files = sorted(directory.glob("layer-*.safetensors"))
    memory = torch.zeros(COPIED_BYTES, dtype=torch.uint8).numpy().data
    started = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(memory):
                pass
    print_memory(time.perf_counter() - started)


def print_memory(seconds: float = 0.0) -> None:
    """Print resident bytes, the most there were, and how long it took."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(*(int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM")), seconds, flush=True)


def ask(*arguments: str) -> tuple[int, int, float]:
    """Run this script in a process of its own; returns (resident, most, seconds)."""
    command = [sys.executable, __file__, *arguments]
    resident, most, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(resident), int(most), float(seconds)


def measure(sizes: Sizes, cases: Sequence[tuple[str, str]]) -> list[Row]:
    """Compare loaded servers with an idle process."""
    idle, _, _ = ask("--idle")
    rows = []
    for format in dict.fromkeys(format for _, format in cases):
        with tempfile.TemporaryDirectory() as directory:
            packed = write_checkpoint(Path(directory), sizes, format)
            for backend in (backend for backend, loaded in cases if loaded == format):
                _, _, copied = ask("--copy", directory)
                loads = [ask("--load", directory, "--backend", backend) for _ in range(NUM_LOADS)]
                resident, most, seconds = map(min, zip(*loads, strict=True))
                case = f"{sizes.num_layers} layers of one expert, {format}, {backend}"
                rows += [
                    Row(case, "resident_bytes", resident - idle, "B", "in the files", packed),
                    Row(case, "most_bytes_while_loading", most - idle, "B", "in the files", packed),
                    Row(case, "bytes_loaded_per_second", packed / seconds, "B/s", "copied", packed / copied),
                ]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--copy", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--backend", default="cpu", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.idle:
        exec(IMPORT_ONLY)
        print_memory()
    elif arguments.load:
        load_and_report(arguments.load, arguments.backend)
    elif arguments.copy:
        copy_and_report(arguments.copy)
    else:
        rows = measure(SMALL, SMALL_CASES) if arguments.small else measure(MIXTRAL, CASES)
        show("memory of an expert server, without what importing torch and grpc takes", rows, arguments.json)


if __name__ == "__main__":
    main()
