"""What an expert server keeps in memory beside the codes of its experts, and how fast it loads them.

Usage: python benchmarks/memory.py [--small] [--json FILE]

Writes one expert of Mixtral's width (4096, 14336) for a few layers as AWQ 4-bit in groups of 128, loads it as an expert
server does, and asks the kernel: resident bytes once loaded, and the most there ever were. Taken off is what a process
takes that imports torch and grpc and nothing else. The files are in the system's cache, so the disk does not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from layer import GROUP_SIZE, random_weight
from report import Row, parse_arguments, show
from safetensors.torch import save_file

REST = "rest.safetensors"
IMPORT_ONLY = "import grpc, torch"


@dataclass(frozen=True)
class Sizes:
    """How large an expert is, and how many layers have one."""

    hidden: int
    ffn: int
    num_layers: int

    def config(self) -> dict[str, object]:
        """Return what config.json says."""
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
            "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP_SIZE, "version": "gemm"},
        }


MIXTRAL = Sizes(4096, 14336, num_layers=4)
SMALL = Sizes(256, 512, num_layers=2)


def write_checkpoint(directory: Path, sizes: Sizes) -> int:
    """Write the expert, a file per layer, and as little else as a model has; returns the bytes of the expert."""
    from expertmesh.architectures.registry import read_model, tensors_of
    from expertmesh.kernels import awq

    config = sizes.config()
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
            parts = awq.pack(random_weight(num_out, num_in, generator)).as_dict()
            tensors |= {f"{spec.name}.{part}": tensor for part, tensor in parts.items()}
        file = f"layer-{layer}.safetensors"
        save_file(tensors, directory / file)
        weight_map |= dict.fromkeys(tensors, file)
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return num_bytes


def load_and_report(directory: Path) -> None:
    """Load as an expert server does and print what the kernel says."""
    from expertmesh.expert.config import ExpertServerConfig
    from expertmesh.expert.process import load_store
    from expertmesh.rpc.allocator import give_back_freed_memory, keep_freed_memory

    give_back_freed_memory()
    started = time.perf_counter()
    store = load_store(ExpertServerConfig(directory, device="cpu"), lambda done, total: None).store
    seconds = time.perf_counter() - started
    keep_freed_memory()
    assert store.layers
    print_memory(seconds)


def print_memory(seconds: float = 0.0) -> None:
    """Print resident bytes, the most there were, and how long it took."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(*(int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM")), seconds, flush=True)


def ask(*arguments: str) -> tuple[int, int, float]:
    """Run this script in a process of its own; returns (resident, most, seconds)."""
    command = [sys.executable, __file__, *arguments]
    resident, most, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(resident), int(most), float(seconds)


def measure(sizes: Sizes) -> list[Row]:
    """Compare a loaded server with an idle process."""
    idle, _, _ = ask("--idle")
    with tempfile.TemporaryDirectory() as directory:
        packed = write_checkpoint(Path(directory), sizes)
        resident, most, seconds = ask("--load", directory)
    case = f"{sizes.num_layers} layers of one expert"
    return [
        Row(case, "resident_bytes", resident - idle, "B", "in the files", packed),
        Row(case, "most_bytes_while_loading", most - idle, "B", "in the files", packed),
        Row(case, "bytes_loaded_per_second", packed / seconds, "B/s"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.idle:
        exec(IMPORT_ONLY)
        print_memory()
    elif arguments.load:
        load_and_report(arguments.load)
    else:
        rows = measure(SMALL if arguments.small else MIXTRAL)
        show("memory of an expert server, without what importing torch and grpc takes", rows, arguments.json)


if __name__ == "__main__":
    main()
