"""What the Triton kernels take of a GPU, read from machine code compiled here: no GPU is needed.

Usage: python benchmarks/triton_resources.py [--small] [--json FILE]

The programs of one Mixtral layer (hidden 4096, FFN 14336), for every storage format and tile size and for four targets,
and those of attention: registers per thread, bytes of spilled registers per thread, shared memory per program (limit:
what the target has).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from report import Row, parse_arguments, show

from expertmesh.kernels.triton.ahead import (
    FORMATS,
    MAX_SHARED_BYTES,
    NO_TENSOR_CORES,
    TARGETS,
    Resources,
    compile_attention,
    compile_dequantize,
    compile_grouped_linear,
    list_tiles,
)
from expertmesh.kernels.triton.attention_kernels import Heads
from expertmesh.kernels.triton.layout import PackedMatrices

HIDDEN, FFN = 4096, 14336
HEAD_WIDTH, KV_HEADS = 128, 8


@dataclass(frozen=True)
class Programs:
    """Which programs are compiled; of the tile sizes the first ``num_tiles``, or all.

    ``sharing``: query heads that share a key-value head.
    """

    targets: Sequence[str]
    formats: Sequence[str]
    sharing: Sequence[int]
    num_tiles: int | None = None


# Mixtral 8x7B has 32 query heads, 8x22B has 48.
ALL = Programs(tuple(TARGETS), tuple(FORMATS), sharing=(4, 6))
SMALL = Programs(("sm_90",), ("4 bits g128",), sharing=(4,), num_tiles=1)


def compile_all(target: str, programs: Programs) -> Iterator[tuple[str, Resources]]:
    """Compile the programs of a layer for one target; yields the name of each and what it takes."""
    dtype = torch.float16 if target in NO_TENSOR_CORES else torch.bfloat16
    for name in programs.formats:
        form = FORMATS[name]
        gate_up, down = form.lay_out(2 * FFN, HIDDEN), form.lay_out(HIDDEN, FFN)
        for tiles in list_tiles(form, target)[: programs.num_tiles]:
            case = f"{target}, {name}, {tiles.block_rows} x {tiles.block_outputs}"
            yield f"{case}, gate and up", compile_grouped_linear(gate_up, dtype, tiles, swiglu=True, target=target)
            yield f"{case}, down", compile_grouped_linear(down, dtype, tiles, swiglu=False, target=target)
        if isinstance(down, PackedMatrices):
            yield f"{target}, {name}, unpack", compile_dequantize(down, dtype, target)
    for sharing in programs.sharing:
        query_stride, kv_stride = (heads * HEAD_WIDTH for heads in (sharing * KV_HEADS, KV_HEADS))
        heads = Heads(HEAD_WIDTH, sharing, query_stride, kv_stride, kv_stride, block_size=16)
        for name, resources in compile_attention(heads, dtype, target).items():
            yield f"{target}, {sharing} heads of {HEAD_WIDTH} per key, {name}", resources


def to_rows(target: str, case: str, resources: Resources) -> list[Row]:
    """Turn the resources of one program into rows."""
    return [
        Row(case, "registers", resources.num_registers, ""),
        Row(case, "spilled", resources.spilled_bytes, "B"),
        Row(case, "shared", resources.shared_bytes, "B", limit_value=MAX_SHARED_BYTES[target]),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Compile and report."""
    arguments = parse_arguments(__doc__).parse_args(argv)
    programs = SMALL if arguments.small else ALL
    rows = [
        row
        for target in programs.targets
        for case, resources in compile_all(target, programs)
        for row in to_rows(target, case, resources)
    ]
    show("what Triton's kernels take of a GPU", rows, arguments.json)


if __name__ == "__main__":
    main()
