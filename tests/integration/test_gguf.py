"""Models in GGUF through real expert servers: logits equal those of transformers on what the gguf package unpacks."""

from dataclasses import replace
from functools import partial

import pytest
from checkpoints import DENSE_MODEL
from gguf_files import write_gguf
from served_logits import CPU, assert_equals_transformers, logits

from expertmesh.kernels.formats import GGML_BLOCKS

PLAIN = ("F32", "F16", "BF16")


def mixed(name: str) -> str:
    """Choose types as llama.cpp's Q4_K_M does: some matrices of some layers have more bits than the rest."""
    is_better = "lm_head" in name or (".layers.1." in name and (".v_proj" in name or ".w2" in name))
    return "Q6_K" if is_better else "Q4_K"


def varied(name: str) -> str:
    """Choose types that differ within a layer and an expert."""
    return list(GGML_BLOCKS)[sum(name.encode()) % len(GGML_BLOCKS)]


@pytest.mark.parametrize("kind", [*PLAIN, *GGML_BLOCKS])
@pytest.mark.parametrize("is_stacked", [True, False])
def test_types(tmp_path, kind, is_stacked):
    assert_equals_transformers(write_gguf(tmp_path, kind, is_stacked))


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0"])
def test_dense_mistral(tmp_path, kind):
    assert_equals_transformers(write_gguf(tmp_path, kind, **DENSE_MODEL))


@pytest.mark.parametrize("change", [{"tie_word_embeddings": True}, {"head_dim": 128}, {"num_key_value_heads": 4}])
def test_shapes(tmp_path, change):
    assert_equals_transformers(write_gguf(tmp_path, mixed, **change))


@pytest.mark.parametrize("num_files", [1, 3])
@pytest.mark.parametrize("kind", [mixed, varied])
def test_several_types_and_files(tmp_path, kind, num_files):
    assert_equals_transformers(write_gguf(tmp_path, kind, is_stacked=kind is mixed, num_files=num_files))


@pytest.mark.parametrize("kind", [mixed, varied, "Q2_K", "Q3_K", "Q5_K", "Q4_0", "Q8_0"])
def test_the_kernels_of_the_cpu(tmp_path, kind):
    made = write_gguf(tmp_path, kind, is_stacked=kind is not varied)
    assert_equals_transformers(made, partial(logits, backend=CPU), max_error=1e-3, backend="cpu")


def test_a_directory_that_holds_one(tmp_path):
    made = write_gguf(tmp_path, mixed, num_files=2)
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')  # as some uploads have it
    assert_equals_transformers(replace(made, directory=tmp_path))
