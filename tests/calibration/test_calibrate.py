"""Calibration of whole small models: what it must not change, and what it must make better."""

from pathlib import Path

import pytest
import torch
from checkpoints import DENSE_MODEL, OLMOE, QWEN3_MOE, RandomCheckpoint, own_name, own_names, save
from logits import logits_of

from expertmesh.calibration.calibrate import FILE, CalibrationConfig, calibrate, calibrate_once, forget
from expertmesh.checkpoint.quantizer import Recipe, quantize
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.rescale import Rescale, digest
from expertmesh.errors import CheckpointError, ComputeError, ConfigError
from expertmesh.kernels.reference import ReferenceBackend

MODELS = {
    "mixtral": {"num_local_experts": 4},
    "mistral": {**DENSE_MODEL, "sliding_window": 20},
    "as many kv heads as heads": {"num_key_value_heads": 4, "num_local_experts": 3},
    "qwen3_moe": {**QWEN3_MOE, "num_key_value_heads": 4},
    "olmoe": {**OLMOE, "num_key_value_heads": 4},
}
TEXT = "Experts are servers of their own. A gateway asks those that the gate has chosen, and adds up the answers. " * 9


def random_sequences(seed: int, vocab_size: int = 512) -> tuple[tuple[int, ...], ...]:
    """Draw 256 tokens."""
    rows = torch.randint(0, vocab_size, (4, 64), generator=torch.Generator().manual_seed(seed))
    return tuple(tuple(row) for row in rows.tolist())


def find_rescales(checkpoint: RandomCheckpoint, recipe: Recipe) -> dict[str, Rescale]:
    backend = ReferenceBackend(torch.device("cpu"))
    return calibrate(Checkpoint.open(checkpoint.directory), recipe, random_sequences(1), backend, silent)


def silent(done: int, total: int) -> None:
    pass


def save_dense(checkpoint: RandomCheckpoint, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the weights of a plain checkpoint."""
    save(checkpoint.directory, own_names(tensors, checkpoint.config))


def add_outliers(checkpoint: RandomCheckpoint) -> None:
    """Make three channels of every norm 16 times as large and the weights behind them as much smaller.

    The model computes the same, exactly, but its activations have outliers, as those of trained models do.
    """
    channels = torch.tensor([3, 40, 101])
    for name, tensor in checkpoint.dense.items():
        if name.endswith("layernorm.weight"):
            tensor[channels] *= 16
        elif name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "gate", "w1", "w3"):
            tensor[:, channels] /= 16
    save_dense(checkpoint, checkpoint.dense)


def relative_error(directory: Path, exact: Path) -> float:
    held_out = random_sequences(2)
    expected = logits_of(exact, held_out)
    return float((logits_of(directory, held_out) - expected).norm() / expected.norm())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_rescaling_alone_changes_no_logit(make_mixtral, model):
    checkpoint = make_mixtral(**model)
    add_outliers(checkpoint)
    expected = logits_of(checkpoint.directory, random_sequences(2))
    rescales = find_rescales(checkpoint, Recipe("awq", 4, 64))
    found = {name: own_name(name, checkpoint.config).removesuffix(".weight") for name in checkpoint.dense}
    moved = {name: rescales.get(found[name], Rescale()).apply(tensor) for name, tensor in checkpoint.dense.items()}
    changed = [name for name, tensor in checkpoint.dense.items() if not tensor.equal(moved[name])]
    assert {name.split(".")[-2] for name in changed} >= {
        "input_layernorm",
        "post_attention_layernorm",
        "w1",
        "w2",
        "w3",
    }
    has_o_proj = any("o_proj" in name for name in changed)
    is_clipped = checkpoint.config.get("clip_qkv") is not None
    has_lone_heads = checkpoint.config["num_key_value_heads"] == checkpoint.config["num_attention_heads"]
    assert has_o_proj == (has_lone_heads and not is_clipped)
    save_dense(checkpoint, moved)
    logits = logits_of(checkpoint.directory, random_sequences(2))
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("recipe", [Recipe("awq", 4, 64), Recipe("gptq", 4, 64)], ids=["awq", "gptq"])
def test_calibrated_logits_are_closer_than_plainly_rounded_ones(make_mixtral, tmp_path, model, recipe, dtype):
    made = make_mixtral(dtype=dtype, **model)
    add_outliers(made)
    checkpoint = Checkpoint.open(made.directory)
    quantize(checkpoint, tmp_path / "plain", recipe, silent)
    quantize(checkpoint, tmp_path / "calibrated", recipe, silent, find_rescales(made, recipe))
    plain = relative_error(tmp_path / "plain", made.directory)
    calibrated = relative_error(tmp_path / "calibrated", made.directory)
    assert calibrated < 0.8 * plain


def test_an_expert_without_rows_keeps_its_inner_scales(make_mixtral):
    made = make_mixtral(num_experts_per_tok=1)
    made.dense["model.layers.0.block_sparse_moe.gate.weight"][:] = 0
    save_dense(made, made.dense)
    rescales = find_rescales(made, Recipe("awq", 4, 64))
    experts = "model.layers.0.block_sparse_moe.experts"
    (chosen,) = [e for e in range(8) if rescales[f"{experts}.{e}.w2"].inputs is not None]
    other = (chosen + 1) % 8
    assert rescales[f"{experts}.{chosen}.w3"].outputs.equal(rescales[f"{experts}.{chosen}.w2"].inputs)
    assert rescales[f"{experts}.{other}.w3"].outputs is None
    assert rescales[f"{experts}.{other}.w1"].inputs.equal(rescales[f"{experts}.{chosen}.w3"].inputs)


class Interrupted(Exception):
    pass


def interrupt(done: int, total: int) -> None:
    if done > total // 2:
        raise Interrupted


def test_an_interrupted_run_takes_over_its_factors_and_writes_the_same_files(make_mixtral, tmp_path):
    checkpoint = Checkpoint.open(make_mixtral(vocab_size=32000, num_local_experts=2).directory)
    text, recipe = tmp_path / "text", Recipe("awq", 4, 64)
    text.write_text(TEXT)
    config = CalibrationConfig(text, 200, "cpu")

    def run(out: Path, report_layers, report) -> None:
        rescales = calibrate_once(checkpoint, out, recipe, config, report_layers)
        quantize(checkpoint, out, recipe, report, rescales)
        forget(out)

    def never(done: int, total: int) -> None:
        raise AssertionError("calibrated again")

    run(tmp_path / "whole", silent, silent)
    with pytest.raises(Interrupted):
        run(tmp_path / "resumed", silent, interrupt)
    assert (tmp_path / "resumed" / FILE).exists()
    run(tmp_path / "resumed", never, silent)
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "resumed").iterdir()}
    assert FILE not in files


def test_factors_of_another_recipe_or_text_are_not_taken_over(make_mixtral, tmp_path):
    checkpoint = Checkpoint.open(make_mixtral(vocab_size=32000, num_local_experts=2, num_hidden_layers=1).directory)
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text(TEXT)
    config = CalibrationConfig(text, 200, "cpu")
    first = calibrate_once(checkpoint, out, Recipe("awq", 4, 64), config, silent)
    assert digest(calibrate_once(checkpoint, out, Recipe("gptq", 2, 32), config, silent)) != digest(first)
    text.write_text("Other words, " + TEXT)
    assert digest(calibrate_once(checkpoint, out, Recipe("awq", 4, 64), config, silent)) != digest(first)


@pytest.mark.parametrize(
    ("device", "recipe", "error", "message"),
    [
        ("nowhere", Recipe("awq", 4, 64), ConfigError, "'nowhere'"),
        ("cpu", Recipe("awq", 3, 64), CheckpointError, "cannot write awq with 3 bits"),
        (
            "cpu",
            Recipe("awq", 4, 96),
            CheckpointError,
            "q_proj: 128 input features are no multiple of the group size 96",
        ),
    ],
)
def test_what_cannot_be_done_is_named(make_mixtral, tmp_path, device, recipe, error, message):
    checkpoint = Checkpoint.open(make_mixtral(vocab_size=32000, num_hidden_layers=1).directory)
    text = tmp_path / "text"
    text.write_text(TEXT)
    with pytest.raises(error, match=message):
        calibrate_once(checkpoint, tmp_path / "out", recipe, CalibrationConfig(text, 200, device), silent)


def test_values_that_are_not_finite_name_who_is_given_them(make_mixtral):
    made = make_mixtral()
    made.dense["model.layers.1.self_attn.o_proj.weight"][0] = 3e38
    save_dense(made, made.dense)
    with pytest.raises(
        ComputeError, match="layers.1.block_sparse_moe.experts.0.w1 is given values that are not finite"
    ):
        find_rescales(made, Recipe("gptq", 4, 64))
