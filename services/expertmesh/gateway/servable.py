"""Whether a model can be served, as far as that can be told before a weight is read. Needs no torch."""

from pathlib import Path

from expertmesh.checkpoint.contents import Contents
from expertmesh.gateway.generation_config import read_defaults, read_eos_ids


def check_servable(directory: Path, round_to_bits: int | None = None) -> Contents:
    """Open a checkpoint as a start with ``round_to_bits`` does; CheckpointError when it would end there."""
    contents = Contents.open(directory, round_to_bits)
    read_defaults(directory)
    read_eos_ids(directory, contents.model.vocab_size)
    return contents
