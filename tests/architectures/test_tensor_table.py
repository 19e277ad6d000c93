import math

import pytest
from published import FILE, MIXTRAL

from expertmesh.architectures.registry import read_model, tensors_of
from expertmesh.architectures.tensor_table import QUANTIZABLE, TensorTable


def table(**changes: object) -> TensorTable:
    return tensors_of(read_model({**MIXTRAL, **changes}, FILE))


def test_every_tensor_has_one_owner():
    tensors = table(num_hidden_layers=2, num_local_experts=3)
    names = [spec.name for spec in tensors]
    assert len(names) == len(set(names)) == 3 + 2 * (7 + 3 * 3)
    assert names == [
        *(spec.name for spec in tensors.of_gateway()),
        *(spec.name for expert in range(3) for spec in tensors.of_expert(expert)),
    ]
    assert all(spec.expert is None for spec in tensors.of_gateway())
    assert {(spec.layer, spec.expert) for spec in tensors.of_expert(2)} == {(0, 2), (1, 2)}


def test_mixtral_has_46_7_billion_parameters():
    assert sum(spec.num_values for spec in table()) == 46_702_792_704


def test_heads_may_be_wider_than_the_hidden_states():
    layer = table(head_dim=256).layer(0)
    assert (layer["q"].shape, layer["k"].shape, layer["o"].shape) == ((8192, 4096), (2048, 4096), (4096, 8192))


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_tied_head_is_not_stored(is_tied: bool):
    assert ("head" in table(tie_word_embeddings=is_tied).ends) is not is_tied


def test_quantizers_take_attention_and_experts():
    tensors = table(num_hidden_layers=1)
    taken = {spec.name.rpartition(".")[2] for spec in tensors if spec.is_quantizable}
    assert taken == {"q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"}
    assert all(
        len(spec.shape) == 2 and math.prod(spec.shape) == spec.num_values
        for spec in tensors
        if spec.role in QUANTIZABLE
    )
