import pytest

from expertmesh.architectures.registry import ARCHITECTURES
from expertmesh.errors import CheckpointError


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_each_role_is_found_by_any_of_its_names_whatever_the_others_are_called(architecture):
    for role, places in architecture.places.items():
        for place in places:
            name = place.name.format(layer=0, expert=0)
            assert architecture.recognize([name if place.part else f"{name}.weight"]).places[role] is place


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_what_is_not_there_has_the_name_of_hf(architecture):
    dialect = architecture.recognize(["model.norm.weight", "model.layers.0.self_attn.q_proj.qweight"])
    assert {role: place.name for role, place in dialect.places.items()} == {
        role: row.name for role, row in architecture.tensors.items()
    }


@pytest.mark.parametrize("names", [[], ["transformer.h.0.attn.weight", "a.b"]])
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_unknown_names_are_shown(architecture, names):
    with pytest.raises(
        CheckpointError,
        match=f"tensor names like (none at all|a.b, transformer.h.0.attn.weight) are not those of {architecture.name}",
    ):
        architecture.recognize(names)
