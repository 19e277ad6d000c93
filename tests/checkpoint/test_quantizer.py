import pytest
import torch
from checkpoints import DENSE_MODEL, find_spec, save, write_mixtral

from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.quantizer import Recipe, quantize
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.rescale import Rescale
from expertmesh.errors import CheckpointError
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import DenseWeight, StoredWeight


def silent(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("model", [{"num_local_experts": 3}, DENSE_MODEL], ids=["mixtral", "mistral"])
@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe("awq", 4, 128), "awq 4-bit g128"),
        (Recipe("awq", 4, -1), "awq 4-bit no groups"),
        (Recipe("gptq", 3, 32), "gptq 3-bit g32"),
        (Recipe("gptq", 8, -1), "gptq 8-bit no groups"),
    ],
)
def test_the_copy_holds_the_rounded_values(tmp_path, model, recipe, words):
    (tmp_path / "model").mkdir()
    made = write_mixtral(tmp_path / "model", dtype=torch.bfloat16, **model)
    quantize(Checkpoint.open(made.directory), tmp_path / "out", recipe, silent)
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert checkpoint.weight_format == words
    assert fingerprint(checkpoint) != fingerprint(Checkpoint.open(made.directory))
    weight = checkpoint.expert(1, 0).w_down
    plain = made.dense["model.layers.1.block_sparse_moe.experts.0.w2.weight"]
    group_size = recipe.group_size if recipe.group_size > 0 else 256
    assert isinstance(weight, StoredWeight)
    expected = round_to_nearest(plain, recipe.bits, group_size, is_symmetric=recipe.method == "gptq")
    assert dequantize(weight).equal(dequantize(expected))
    head = checkpoint.weight(find_spec(checkpoint, "lm_head"))
    assert isinstance(head, DenseWeight)
    assert head.data.equal(made.dense["lm_head.weight"])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("awq", 3, 128), "cannot write awq with 3 bits; known are awq with 4 bits; gptq with 2, 3, 4, 8 bits"),
        (Recipe("int", 4, 128), "cannot write int with 4 bits"),
        (Recipe("gptq", 4, 0), "cannot write groups of 0; a positive number or -1 would be right"),
        (Recipe("gptq", 4, 96), "q_proj: 128 input features are no multiple of the group size 96"),
    ],
)
def test_what_the_format_cannot_hold_is_named(make_mixtral, tmp_path, recipe, message):
    with pytest.raises(CheckpointError, match=message):
        quantize(Checkpoint.open(make_mixtral().directory), tmp_path, recipe, silent)


@pytest.mark.parametrize("model", [{"num_local_experts": 2}, DENSE_MODEL], ids=["mixtral", "mistral"])
@pytest.mark.parametrize("recipe", [Recipe("awq", 4, 64), Recipe("gptq", 3, 32)], ids=["awq", "gptq"])
def test_factors_of_one_change_nothing_but_the_fingerprint(make_mixtral, tmp_path, model, recipe):
    checkpoint = Checkpoint.open(make_mixtral(dtype=torch.bfloat16, **model).directory)
    ones = {
        spec.name: Rescale(torch.ones(spec.shape[-1]) if spec.shape[1:] else None, torch.ones(spec.shape[0]))
        for spec in checkpoint.tensors
    }
    quantize(checkpoint, tmp_path / "plain", recipe, silent)
    quantize(checkpoint, tmp_path / "ones", recipe, silent, ones)
    plain, rescaled = Checkpoint.open(tmp_path / "plain"), Checkpoint.open(tmp_path / "ones")
    assert list(plain.files.names) == list(rescaled.files.names)
    assert all(plain.files.read(name).equal(rescaled.files.read(name)) for name in plain.files.names)
    assert fingerprint(plain) != fingerprint(rescaled)


def test_matrices_norms_and_biases_are_rescaled_before_they_are_rounded(make_mixtral, tmp_path):
    made = make_mixtral(dtype=torch.bfloat16, num_hidden_layers=1)
    bias = torch.linspace(-1, 1, 64).bfloat16()
    save(made.directory, {**made.dense, "model.layers.0.self_attn.v_proj.bias": bias})
    inputs, outputs = torch.linspace(0.5, 2, 128), torch.linspace(2, 0.5, 64)
    rescales = {
        "model.layers.0.input_layernorm": Rescale(outputs=inputs),
        "model.layers.0.self_attn.v_proj": Rescale(inputs, outputs),
        "model.layers.0.block_sparse_moe.gate": Rescale(inputs),
    }
    recipe = Recipe("gptq", 4, 64)
    quantize(Checkpoint.open(made.directory), tmp_path, recipe, silent, rescales)
    checkpoint = Checkpoint.open(tmp_path)

    def expected(name: str) -> torch.Tensor:
        return rescales[name].apply(made.dense[f"{name}.weight"])

    for name in ("model.layers.0.input_layernorm", "model.layers.0.block_sparse_moe.gate"):
        assert checkpoint.tensor(find_spec(checkpoint, name)).equal(expected(name).bfloat16())
    value = checkpoint.weight(find_spec(checkpoint, "model.layers.0.self_attn.v_proj"))
    assert isinstance(value, StoredWeight)
    assert dequantize(value).equal(dequantize(recipe.round(expected("model.layers.0.self_attn.v_proj"))))
    assert value.bias is not None
    assert value.bias.equal((bias.float() / outputs).bfloat16())
