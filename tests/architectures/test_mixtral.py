import pytest
from published import FILE, MIXTRAL, MIXTRAL_8X22B

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.mixtral import MIXTRAL as FAMILY
from expertmesh.architectures.model_config import GateRule
from expertmesh.architectures.registry import read_model, tensors_of
from expertmesh.errors import CheckpointError

MODEL = read_model(MIXTRAL, FILE)
# The tensors of layer 3 and its expert 5, and those that belong to no layer.
SPECS = tensors_of(MODEL).ends | tensors_of(MODEL).layer(3) | tensors_of(MODEL).expert(3, 5)
F = 14336


def test_the_published_configuration_is_read():
    assert (MODEL.num_experts, MODEL.num_experts_per_token, MODEL.gate) == (8, 2, GateRule.RENORMALISED)


def test_the_larger_one_is_read():
    model = read_model(MIXTRAL_8X22B, FILE)
    assert (model.num_layers, model.hidden_size, model.intermediate_size, model.vocab_size) == (56, 6144, 16384, 32768)
    assert (model.num_heads, model.num_kv_heads, model.head_dim, model.rope.theta) == (48, 8, 128, 1e6)
    assert sum(spec.num_values for spec in tensors_of(model)) == 140_630_071_296


def test_the_window_of_its_first_upload_is_none():
    assert MIXTRAL["sliding_window"] == 4096
    assert MODEL.sliding_window is None
    assert read_model({**MIXTRAL, "sliding_window": 8192}, FILE).sliding_window == 8192


def test_its_experts_may_be_counted_under_another_name():
    newer = {**MIXTRAL, "num_local_experts": None, "num_experts": 8}
    assert read_model(newer, FILE) == MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_experts": True}, "num_local_experts is True; a positive integer would be right"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok is None; a positive integer would be right"),
        ({"num_experts": 4}, "num_experts is 4; the same as num_local_experts, 8, or neither, would be right"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9; no more than there are experts, 8, would be right"),
    ],
)
def test_experts_that_cannot_be_are_named(change, message):
    with pytest.raises(CheckpointError, match=message):
        read_model({**MIXTRAL, **change}, FILE)


def test_its_tensors_by_the_names_of_hf():
    assert {spec.name: spec.shape for spec in SPECS.values()} == {
        "model.embed_tokens": (32000, 4096),
        "model.norm": (4096,),
        "lm_head": (32000, 4096),
        "model.layers.3.input_layernorm": (4096,),
        "model.layers.3.post_attention_layernorm": (4096,),
        "model.layers.3.self_attn.q_proj": (4096, 4096),
        "model.layers.3.self_attn.k_proj": (1024, 4096),
        "model.layers.3.self_attn.v_proj": (1024, 4096),
        "model.layers.3.self_attn.o_proj": (4096, 4096),
        "model.layers.3.block_sparse_moe.gate": (8, 4096),
        "model.layers.3.block_sparse_moe.experts.5.w1": (F, 4096),
        "model.layers.3.block_sparse_moe.experts.5.w2": (4096, F),
        "model.layers.3.block_sparse_moe.experts.5.w3": (F, 4096),
    }
    assert (SPECS["w_gate"].name[-2:], SPECS["w_down"].name[-2:], SPECS["w_up"].name[-2:]) == ("w1", "w2", "w3")


@pytest.mark.parametrize(
    ("names", "locations"),
    [
        (
            {role: spec.name for role, spec in SPECS.items()},
            {},
        ),
        (
            {
                "gate": "model.layers.3.mlp.gate",
                "w_gate": "model.layers.3.mlp.experts.5.gate_proj",
                "w_down": "model.layers.3.mlp.experts.5.down_proj",
                "w_up": "model.layers.3.mlp.experts.5.up_proj",
                "final_norm": "model.norm",
            },
            {},
        ),
        (
            {"gate": "model.layers.3.mlp.gate", "q": "model.layers.3.self_attn.q_proj"},
            {
                "w_gate": Location("model.layers.3.mlp.experts.gate_up_proj", "", (5, slice(0, F))),
                "w_down": Location("model.layers.3.mlp.experts.down_proj", "", (5,)),
                "w_up": Location("model.layers.3.mlp.experts.gate_up_proj", "", (5, slice(F, 2 * F))),
            },
        ),
        (
            {
                "gate": "layers.3.feed_forward.gate",
                "w_down": "layers.3.feed_forward.experts.5.w2",
                "head": "output",
                "input_norm": "layers.3.attention_norm",
                "o": "layers.3.attention.wo",
            },
            {"q": Location("layers.3.attention.wq", has_rotary_pairs=True)},
        ),
        (
            {
                "gate": "model.layers.3.mlp.router",
                "w_gate": "model.layers.3.block_sparse_moe.experts.5.gate_proj",
                "w_down": "model.layers.3.mlp.experts.5.down_proj",
                "w_up": "model.layers.3.block_sparse_moe.experts.5.w3",
                "final_norm": "norm",
            },
            {"q": Location("layers.3.attention.wq", has_rotary_pairs=True)},
        ),
        (
            {"gate": "layers.3.block_sparse_moe.gate", "embedding": "tok_embeddings"},
            {
                "w_gate": Location("layers.3.block_sparse_moe.w1", "", (slice(5 * F, 6 * F),)),
                "w_down": Location("layers.3.block_sparse_moe.w2", "", (slice(5 * F, 6 * F),), is_transposed=True),
                "k": Location("layers.3.attention.wk", has_rotary_pairs=True),
            },
        ),
    ],
)
def test_tensors_are_found_by_their_names_also_where_tools_are_mixed(names, locations):
    expected = {role: Location(there) for role, there in names.items()} | locations
    first = (there.name.replace(".3.", ".0.").replace(".5.", ".0.") for there in expected.values())
    dialect = FAMILY.recognize(first)
    assert {role: dialect.locate(SPECS[role]) for role in expected} == expected
