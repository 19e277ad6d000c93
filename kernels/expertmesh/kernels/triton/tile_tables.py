"""Tables of tiles by the name of a GPU: JSON files, some shipped, others made by ``tune`` on the GPU at hand."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from expertmesh.kernels.native.build import default_directory
from expertmesh.kernels.private_places import is_private, make_directory
from expertmesh.kernels.triton.tuning import BLOCK_ROWS, Tiles

SHIPPED = Path(__file__).with_name("tables")
# Whose table GPUs without one get: the one that was timed.
DEFAULT_GPU = "NVIDIA H200"
# With these, tensor cores from sm_90 on run one instruction for all tiles (wgmma); with fewer they run another.
OUTPUTS = (64, 128, 256)
WARPS = (4, 8)
STAGES = range(1, 9)


def own_tables() -> Path:
    """Where tables that were made on this machine are kept."""
    return default_directory() / "tiles"


def find_tiles(gpu: str, directory: Path) -> tuple[Tiles, ...]:
    """Read the table of a GPU: from ``directory``, else the shipped one, else that of DEFAULT_GPU.

    One that others could have written is not read. ValueError when the table found is none.
    """
    if is_private(own := file_of(gpu, directory)):
        return read_tiles(own)
    shipped = file_of(gpu, SHIPPED)
    return read_tiles(shipped if shipped.is_file() else file_of(DEFAULT_GPU, SHIPPED))


def file_of(gpu: str, directory: Path) -> Path:
    """Return the file of a GPU's table."""
    return directory / f"{gpu.replace('/', '-')}.json"


def read_tiles(file: Path) -> tuple[Tiles, ...]:
    """Read a table; ValueError, naming the file, when it is none that launches can use."""
    try:
        table = tuple(Tiles(**entry) for entry in json.loads(file.read_text()))
        check_tiles(table)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is no table of tiles: {error}; delete it or make it anew with tune") from error
    return table


def write_tiles(file: Path, table: Sequence[Tiles]) -> None:
    """Write a table, an entry a line; folders are made."""
    names = [field.name for field in fields(Tiles) if field.name != "block_inputs"]
    entries = [json.dumps({name: asdict(tiles)[name] for name in names}) for tiles in table]
    make_directory(file.parent)
    file.write_text("[\n  " + ",\n  ".join(entries) + "\n]\n")
    file.chmod(0o644)


def check_tiles(table: Sequence[Tiles]) -> None:
    """Check the tiles for packed weights; ValueError when one would not do, or would give a row other bits."""
    if tuple(tiles.block_rows for tiles in table) != BLOCK_ROWS:
        raise ValueError(f"there must be one entry for each of {BLOCK_ROWS} rows, in this order")
    limits = [tiles.max_rows for tiles in table]
    counts = [limit for limit in limits if limit is not None]
    if limits != [*sorted(counts), None]:
        raise ValueError(f"max_rows must not descend, and be null in the end: {limits}")
    for tiles in table:
        if tiles.block_outputs not in OUTPUTS or tiles.num_warps not in WARPS or tiles.num_stages not in STAGES:
            raise ValueError(f"{tiles} must have outputs of {OUTPUTS}, warps of {WARPS} and 1 to {STAGES[-1]} stages")
