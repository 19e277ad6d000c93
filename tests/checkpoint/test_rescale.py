import pytest
import torch

from expertmesh.checkpoint.rescale import Rescale, digest, load, save
from expertmesh.errors import CheckpointError

RESCALES = {
    "norm": Rescale(outputs=torch.tensor([1.0, 2.0, 4.0])),
    "v_proj": Rescale(inputs=torch.tensor([1.0, 2.0, 4.0]), outputs=torch.tensor([0.5, 3.0])),
    "w2": Rescale(),
}


def test_columns_are_multiplied_and_rows_divided():
    matrix = torch.tensor([[1.0, 1.0, 1.0], [3.0, 6.0, 9.0]], dtype=torch.bfloat16)
    assert RESCALES["v_proj"].apply(matrix).equal(torch.tensor([[2.0, 4.0, 8.0], [1.0, 4.0, 12.0]]))
    assert RESCALES["norm"].apply(torch.tensor([1.0, 1.0, 1.0])).equal(torch.tensor([1.0, 0.5, 0.25]))
    assert RESCALES["v_proj"].divide(torch.tensor([1.0, 3.0])).equal(torch.tensor([2.0, 1.0]))
    assert Rescale().apply(matrix).equal(matrix.float())


def test_saved_factors_come_back_for_what_they_were_made_from(tmp_path):
    path = tmp_path / "factors"
    assert load(path, "mark") is None
    save(path, RESCALES, "mark")
    assert load(path, "another mark") is None
    loaded = load(path, "mark")
    assert loaded is not None
    assert set(loaded) == {"norm", "v_proj"}
    assert digest(loaded) == digest(RESCALES)
    assert loaded["norm"].inputs is None


@pytest.mark.parametrize("name", ["norm", "v_proj"])
def test_the_digest_sees_every_factor_and_whose_it_is(name):
    assert digest({**RESCALES, name: Rescale(outputs=torch.tensor([1.0, 2.0, 4.5]))}) != digest(RESCALES)
    renamed = {("other" if key == name else key): value for key, value in RESCALES.items()}
    assert digest(renamed) != digest(RESCALES)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "factors"
    save(path, RESCALES, "mark")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="factors is damaged"):
        load(path, "mark")
