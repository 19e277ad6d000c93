from published import FILE, MISTRAL

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.mistral import MISTRAL as FAMILY
from expertmesh.architectures.mistral import RELEASED_DENSE
from expertmesh.architectures.model_config import GateRule
from expertmesh.architectures.registry import read_model, tensors_of

MODEL = read_model(MISTRAL, FILE)
TENSORS = tensors_of(MODEL)


def test_its_only_ffn_is_the_only_expert():
    assert (MODEL.num_experts, MODEL.num_experts_per_token, MODEL.gate) == (1, 1, GateRule.ONLY_EXPERT)
    assert "gate" not in TENSORS.layer(3)
    assert {spec.name: spec.shape for spec in TENSORS.expert(3, 0).values()} == {
        "model.layers.3.mlp.gate_proj": (14336, 4096),
        "model.layers.3.mlp.down_proj": (4096, 14336),
        "model.layers.3.mlp.up_proj": (14336, 4096),
    }


def test_its_window_is_kept():
    assert MODEL.sliding_window == 4096
    assert read_model({**MISTRAL, "sliding_window": None}, FILE).sliding_window is None


def test_the_names_of_its_release():
    dialect = FAMILY.recognize(f"{place.name.format(layer=0)}.weight" for place in RELEASED_DENSE.values())
    names = {role: dialect.locate(spec).prefix for role, spec in (TENSORS.layer(3) | TENSORS.expert(3, 0)).items()}
    assert names == {
        "input_norm": "layers.3.attention_norm",
        "expert_norm": "layers.3.ffn_norm",
        "q": "layers.3.attention.wq",
        "k": "layers.3.attention.wk",
        "v": "layers.3.attention.wv",
        "o": "layers.3.attention.wo",
        "w_gate": "layers.3.feed_forward.w1",
        "w_down": "layers.3.feed_forward.w2",
        "w_up": "layers.3.feed_forward.w3",
    }
    assert dialect.locate(TENSORS.layer(3)["q"]) == Location("layers.3.attention.wq", has_rotary_pairs=True)
