"""What an expert server keeps in memory beside the codes of its experts, and how fast it loads them.

Usage: python benchmarks/memory.py [--json FILE]

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
from pathlib import Path

import torch
from layer import FFN, GROUP_SIZE, HIDDEN, random_weight
from report import Row, parse_arguments, show
from safetensors.torch import save_file

NUM_LAYERS = 4
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 1,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 32768,
    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP_SIZE, "version": "gemm"},
}
IMPORT_ONLY = "import grpc, torch"


def write_checkpoint(directory: Path) -> int:
    """Write the expert, a file per layer; returns the bytes of its tensors."""
    from expertmesh.kernels import awq

    generator = torch.Generator().manual_seed(0)
    weight_map, num_bytes = {}, 0
    for layer in range(NUM_LAYERS):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts.0"
        tensors = {}
        for matrix, num_out, num_in in (("w1", FFN, HIDDEN), ("w3", FFN, HIDDEN), ("w2", HIDDEN, FFN)):
            parts = awq.pack(random_weight(num_out, num_in, generator)).as_dict()
            tensors |= {f"{prefix}.{matrix}.{part}": tensor for part, tensor in parts.items()}
        file = f"layer-{layer}.safetensors"
        save_file(tensors, directory / file)
        weight_map |= dict.fromkeys(tensors, file)
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return num_bytes


def load_and_report(directory: Path) -> None:
    """Load as an expert server does and print what the kernel says."""
    from expertmesh.expert.server import ExpertServerConfig, load
    from expertmesh.rpc.memory import give_back_freed_memory, keep_freed_memory

    give_back_freed_memory()
    started = time.perf_counter()
    store, _ = load(ExpertServerConfig(directory), lambda done, total: None)
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


def measure() -> list[Row]:
    """Compare a loaded server with an idle process."""
    idle, _, _ = ask("--idle")
    with tempfile.TemporaryDirectory() as directory:
        packed = write_checkpoint(Path(directory))
        resident, most, seconds = ask("--load", directory)
    case = f"{NUM_LAYERS} layers of one expert"
    return [
        Row(case, "resident_bytes", resident - idle, "B", "in the files", packed),
        Row(case, "most_bytes_while_loading", most - idle, "B", "in the files", packed),
        Row(case, "bytes_loaded_per_second", packed / seconds, "B/s"),
    ]


def main() -> None:
    """Measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.idle:
        exec(IMPORT_ONLY)
        print_memory()
    elif arguments.load:
        load_and_report(arguments.load)
    else:
        show("memory of an expert server, without what importing torch and grpc takes", measure(), arguments.json)


if __name__ == "__main__":
    main()
