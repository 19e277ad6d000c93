"""Generate the Python stubs of protos/expertmesh into protos/gen, or check that they are up to date.

Usage: python protos/generate.py [--check]
"""

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

SOURCES = Path(__file__).parent
GENERATED = SOURCES / "gen"


def generate(target: Path) -> None:
    """Write the stubs of every proto file to ``target``."""
    protos = [str(path) for path in sorted(SOURCES.glob("expertmesh/**/*.proto"))]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{SOURCES}", f"-I{well_known}", *outputs, *protos]):
        raise SystemExit("protoc failed")
    for stub in target.glob("**/*_pb2_grpc.py"):
        if "class " not in stub.read_text():
            stub.unlink()
    for package in {stub.parent for stub in target.glob("**/*_pb2.pyi")}:
        (package / "py.typed").touch()  # PEP 561: type checkers believe the stubs only beside such a file


def find_stale(target: Path) -> list[str]:
    """Name the files that differ between the committed stubs and those in ``target``."""
    names = {
        str(path.relative_to(root))
        for root in (GENERATED, target)
        for path in root.glob("expertmesh/**/*")
        if path.suffix in {".py", ".pyi", ".typed"}
    }
    _, differing, missing = filecmp.cmpfiles(GENERATED, target, names, shallow=False)
    return sorted(differing + missing)


def main() -> None:
    """Generate or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed stubs are stale")
    if not parser.parse_args().check:
        generate(GENERATED)
        return
    with tempfile.TemporaryDirectory() as target:
        generate(Path(target))
        if stale := find_stale(Path(target)):
            sys.exit(f"stale stubs, run `make protos`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
