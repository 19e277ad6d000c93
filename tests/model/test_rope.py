from pathlib import Path

import pytest
import torch
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralRotaryEmbedding, apply_rotary_pos_emb

from expertmesh.architectures.keys import Keys
from expertmesh.architectures.rope import Rope, read_rope
from expertmesh.kernels.step_ops import rotate
from expertmesh.model.rope import RotaryEmbedding

HEAD_DIM, NUM_HEADS, MAX_POSITIONS = 32, 3, 4096
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}
KINDS = {
    "plain": {},
    "linear": {"rope_type": "linear", "factor": 3},
    "dynamic": {"rope_type": "dynamic", "factor": 1.1},
    "yarn": YARN,
    "yarn of the length that the model has": {"rope_type": "yarn", "factor": 4},
    "other bounds": {**YARN, "beta_fast": 64, "beta_slow": 0.5},
    "bounds between features": {**YARN, "truncate": False},
    "bounds that are one": {**YARN, "beta_fast": 2, "beta_slow": 2, "truncate": False},
    "bounds in the wrong order": {**YARN, "beta_fast": 1, "beta_slow": 32},
    "a magnitude": {**YARN, "attention_factor": 0.7},
    "a ratio of magnitudes": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.2},
    "a factor below 1": {**YARN, "factor": 0.5, "mscale": 0.707, "mscale_all_dim": 1.2},
}


def heads(num_tokens: int) -> torch.Tensor:
    return torch.randn(num_tokens, NUM_HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rotation_is_that_of_transformers(theta: float, kind: dict):
    parameters = {"rope_type": "default", "rope_theta": theta, **kind}
    config = MixtralConfig(
        hidden_size=NUM_HEADS * HEAD_DIM,
        num_attention_heads=NUM_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters=dict(parameters),
    )
    positions = torch.tensor([0, 1, 7, 500, MAX_POSITIONS - 1])
    x = heads(len(positions))
    theirs = MixtralRotaryEmbedding(config)(x, positions[None])
    expected, _ = apply_rotary_pos_emb(x[None], x[None], *theirs, unsqueeze_dim=2)
    rope = read_rope(Keys({"rope_parameters": parameters}, Path("config.json")), MAX_POSITIONS)
    ours = RotaryEmbedding(HEAD_DIM, MAX_POSITIONS, rope, x.device).at(positions, x.dtype)
    torch.testing.assert_close(rotate(x, *ours), expected[0], rtol=1e-5, atol=1e-5)


def test_products_depend_on_the_distance_only():
    rope = RotaryEmbedding(HEAD_DIM, MAX_POSITIONS, Rope(1e4), torch.device("cpu"))
    query, key = heads(2).split(1)

    def product(at_query: int, at_key: int) -> torch.Tensor:
        turned = [rotate(x, *rope.at(torch.tensor([at]), x.dtype)) for x, at in ((query, at_query), (key, at_key))]
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(product(5, 2), product(1005, 1002), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(product(5, 2), product(5, 4), rtol=1e-3, atol=1e-3)


def test_position_zero_changes_nothing():
    rope = RotaryEmbedding(HEAD_DIM, MAX_POSITIONS, Rope(1e4), torch.device("cpu"))
    x = heads(1).bfloat16()
    assert torch.equal(rotate(x, *rope.at(torch.tensor([0]), x.dtype)), x)
