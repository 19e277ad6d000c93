"""C kernels compiled ahead, for images without a compiler. Knows kinds of processors, not this one's compiler.

``python -m expertmesh.kernels.native.prebuilt`` fills the directory beside this file. Without it, kernels are compiled
at first use. A library's name holds its kind and a hash of sources and flags: those of other sources are not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expertmesh.kernels.native.build import compile_library, digest_inputs, is_intact

DIRECTORY = Path(__file__).with_name("prebuilt")
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Kind:
    """Processors of one kind: the compiler's ``flags`` for them, and what /proc/cpuinfo says of every one of them."""

    name: str
    flags: tuple[str, ...]
    features: frozenset[str]

    @property
    def library(self) -> str:
        """The file name of the library for this kind."""
        return f"kernels-{self.name}-{digest_inputs(' '.join(self.flags))}.so"


_V3 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# The best first. Two levels of the x86-64 psABI, each with and without instructions for integer dot products.
KINDS = (
    Kind("v4-vnni", ("-march=x86-64-v4", "-mavx512vnni"), _V4 | {"avx512_vnni"}),
    Kind("v4", ("-march=x86-64-v4",), _V4),
    Kind("v3-vnni", ("-march=x86-64-v3", "-mavxvnni"), _V3 | {"avx_vnni"}),
    Kind("v3", ("-march=x86-64-v3",), _V3),
)


def find(directory: Path, cpu_info: Path = CPU_INFO) -> Path | None:
    """Return the best intact library in ``directory`` that this processor can run, or None."""
    features = _read_features(cpu_info) if directory.is_dir() else frozenset()
    libraries = (directory / kind.library for kind in KINDS if kind.features <= features)
    return next((library for library in libraries if is_intact(library)), None)


def compile_ahead(compiler: str, directory: Path, kinds: Sequence[Kind] = KINDS) -> list[Path]:
    """Compile a library for each of ``kinds`` into ``directory``. BuildError when the compiler is missing or fails."""
    directory.mkdir(parents=True, exist_ok=True)
    libraries = [directory / kind.library for kind in kinds]
    for kind, library in zip(kinds, libraries, strict=True):
        compile_library(compiler, kind.flags, library)
        library.chmod(0o644)
    return libraries


def _read_features(cpu_info: Path) -> frozenset[str]:
    """Read the flags of the first processor; none where there is no such file or no such line, as on other systems."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


if __name__ == "__main__":
    for compiled in compile_ahead("cc", DIRECTORY):
        print(compiled)
