import pytest

from expertmesh.checkpoint.names import Location, owners, recognize
from expertmesh.errors import CheckpointError

W1, W2, W3 = (f"model.layers.3.block_sparse_moe.experts.5.w{i}" for i in (1, 2, 3))
GATE = "model.layers.3.block_sparse_moe.gate"
INNER, OUTER = (256, 128), (128, 256)


@pytest.mark.parametrize(
    ("name", "names", "locations"),
    [
        ("model.layers.0.block_sparse_moe.experts.0.w1.qweight", {GATE: GATE, W1: W1}, {}),
        (
            "model.layers.0.mlp.experts.0.gate_proj.weight",
            {
                GATE: "model.layers.3.mlp.gate",
                W1: "model.layers.3.mlp.experts.5.gate_proj",
                W2: "model.layers.3.mlp.experts.5.down_proj",
                W3: "model.layers.3.mlp.experts.5.up_proj",
                "model.norm": "model.norm",
            },
            {},
        ),
        (
            "model.layers.0.mlp.experts.gate_up_proj",
            {GATE: "model.layers.3.mlp.gate"},
            {
                W1: Location("model.layers.3.mlp.experts.gate_up_proj", "", (5, slice(0, 256))),
                W2: Location("model.layers.3.mlp.experts.down_proj", "", (5,)),
                W3: Location("model.layers.3.mlp.experts.gate_up_proj", "", (5, slice(256, 512))),
            },
        ),
        (
            "layers.0.feed_forward.experts.0.w1.weight",
            {
                GATE: "layers.3.feed_forward.gate",
                W2: "layers.3.feed_forward.experts.5.w2",
                "lm_head": "output",
                "model.layers.3.input_layernorm": "layers.3.attention_norm",
                "model.layers.3.self_attn.o_proj": "layers.3.attention.wo",
            },
            {"model.layers.3.self_attn.q_proj": Location("layers.3.attention.wq", rotary_head_dim=32)},
        ),
        (
            "layers.0.block_sparse_moe.w1",
            {GATE: "layers.3.block_sparse_moe.gate", "model.embed_tokens": "tok_embeddings"},
            {
                W1: Location("layers.3.block_sparse_moe.w1", "", (slice(1280, 1536),)),
                W2: Location("layers.3.block_sparse_moe.w2", "", (slice(1280, 1536),), is_transposed=True),
                "model.layers.3.self_attn.k_proj": Location("layers.3.attention.wk", rotary_head_dim=32),
            },
        ),
    ],
)
def test_each_dialect_finds_its_matrices(name, names, locations):
    locate = recognize([name, "model.norm.weight"], head_dim=32)
    for ours, theirs in names.items():
        assert locate(ours, INNER) == Location(theirs)
    for ours, location in locations.items():
        assert locate(ours, OUTER if ours == W2 else INNER) == location


@pytest.mark.parametrize("names", [[], ["transformer.h.0.attn.weight", "a.b"]])
def test_unknown_names_are_shown(names):
    with pytest.raises(
        CheckpointError, match="tensor names like (none at all|a.b, transformer.h.0.attn.weight) are not"
    ):
        recognize(names, head_dim=32)


@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("model.layers.0.block_sparse_moe.experts.7.w1.qweight", [7]),
        ("model.layers.0.mlp.experts.3.gate_proj.weight", [3]),
        ("model.layers.0.mlp.experts.gate_up_proj", [0, 1, 2, 3]),
        ("layers.0.block_sparse_moe.w2", [0, 1, 2, 3]),
        ("layers.0.feed_forward.experts.2.w2.weight", [2]),
        ("layers.0.block_sparse_moe.gate.weight", []),
        ("model.layers.0.mlp.gate.weight", []),
        ("model.layers.0.self_attn.q_proj.weight", []),
        ("lm_head.weight", []),
    ],
)
def test_who_loads_a_tensor(name, experts):
    assert list(owners(name, 4)) == experts


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "layers.0.feed_forward.w3.weight"])
def test_the_ffn_of_a_dense_model_is_expert_0(name):
    assert list(owners(name, 1)) == [0]
