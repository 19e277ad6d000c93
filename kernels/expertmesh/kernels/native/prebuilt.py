"""C kernels compiled ahead, for images without a compiler. Knows where they lie, not how they are loaded.

``python -m expertmesh.kernels.native.prebuilt`` fills the directory beside this file. Without it, kernels are compiled
at first use. A library's name holds its variant and a hash of sources and flags: those of other sources are not found.
"""

from collections.abc import Sequence
from pathlib import Path

from expertmesh.kernels.native.build import compile_library, file_name, is_intact
from expertmesh.kernels.native.isa import VARIANTS, Variant

DIRECTORY = Path(__file__).with_name("prebuilt")


def find(directory: Path, variant: Variant) -> Path | None:
    """Return the library of ``variant`` in ``directory`` if it is there and intact."""
    library = directory / file_name(variant)
    return library if is_intact(library) else None


def compile_ahead(compiler: str, directory: Path, variants: Sequence[Variant] = VARIANTS) -> list[Path]:
    """Compile ``variants`` into ``directory``. BuildError when the compiler is missing or fails."""
    directory.mkdir(parents=True, exist_ok=True)
    libraries = [directory / file_name(variant) for variant in variants]
    for variant, library in zip(variants, libraries, strict=True):
        compile_library(compiler, variant.flags, library)
        library.chmod(0o644)
    return libraries


if __name__ == "__main__":
    for compiled in compile_ahead("cc", DIRECTORY):
        print(compiled)
