import pytest

from expertmesh.architectures.registry import ARCHITECTURES
from expertmesh.errors import CheckpointError


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_no_dialect_takes_the_files_of_another(architecture):
    for dialect in architecture.dialects:
        assert architecture.recognize([f"{dialect.marker}0.weight"]) is dialect


@pytest.mark.parametrize("names", [[], ["transformer.h.0.attn.weight", "a.b"]])
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_unknown_names_are_shown(architecture, names):
    with pytest.raises(
        CheckpointError,
        match=f"tensor names like (none at all|a.b, transformer.h.0.attn.weight) are not those of {architecture.name}",
    ):
        architecture.recognize(names)
