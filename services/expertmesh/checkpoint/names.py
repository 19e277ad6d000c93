"""How a checkpoint names its tensors. Knows names and where a matrix lies inside a fused one, reads nothing.

Everywhere else matrices go by HF's first names for Mixtral, without ".weight": ``model.layers.3.self_attn.q_proj``,
``model.layers.3.block_sparse_moe.experts.5.w1``. Alphabet: E experts, D hidden width, F FFN width.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from expertmesh.checkpoint.entry import Part
from expertmesh.errors import CheckpointError

EXPERT = re.compile(r"model\.layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<expert>\d+)\.(?P<matrix>w[123])")
# w1 is the gate, w3 the up and w2 the down projection.
PROJECTIONS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
MISTRAL = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "block_sparse_moe.gate": "feed_forward.gate",
}
ROTARY = (".q_proj", ".k_proj")


@dataclass(frozen=True)
class Location:
    """Where a matrix or a vector lies.

    Its values are ``part`` of the tensor ``prefix + suffix``, or packed in ``prefix + ".qweight"`` and its companions;
    then turned over if ``is_transposed``; ``rotary_head_dim`` > 0 says that the rows of each head of that width hold
    rotary pairs side by side, where HF holds first all first halves, then all second ones.
    """

    prefix: str
    suffix: str = ".weight"
    part: Part = ()
    is_transposed: bool = False
    rotary_head_dim: int = 0

    @property
    def name(self) -> str:
        """Name of the tensor with plain values."""
        return self.prefix + self.suffix


# Finds the matrix of a name, which will be of a shape (the FFN width says where experts lie in a fused tensor).
Locate = Callable[[str, tuple[int, ...]], Location]


def recognize(names: Iterable[str], head_dim: int) -> Locate:
    """Find out which names a checkpoint uses; CheckpointError shows what there is when they are unknown."""
    names = list(names)
    for marker, locate in _dialects(head_dim).items():
        if any(name.startswith(marker) for name in names):
            return locate
    raise CheckpointError(
        f"tensor names like {', '.join(sorted(names)[:3]) or 'none at all'} are not those of a Mixtral or Mistral model"
    )


def hf_name(name: str, is_dense: bool) -> str:
    """Return the name that HF has for a matrix; that of a dense model's only FFN is not the one used here."""
    return _hf_dense(name, ()).prefix if is_dense else name


def is_quantizable(name: str) -> bool:
    """Tell whether quantizers take the matrix ``name``: attention and experts, but no gate, head or embedding."""
    return name.endswith("_proj") or EXPERT.fullmatch(name) is not None


def owners(name: str, num_experts: int) -> range:
    """Tell which experts share the tensor ``name`` of a file; none for what the gateway loads."""
    if match := re.search(r"\.experts\.(\d+)\.", name):
        return range(int(match[1]), int(match[1]) + 1)
    if re.search(r"\.mlp\.(experts|gate_proj|up_proj|down_proj)\.|\.(block_sparse_moe|feed_forward)\.w[123]\b", name):
        return range(num_experts)
    return range(0)


def _dialects(head_dim: int) -> dict[str, Locate]:
    """Return the dialects by how a name begins that only they use, the more special first."""
    return {
        "model.layers.0.block_sparse_moe.experts.": _hf,
        "model.layers.0.mlp.experts.gate_up_proj": _hf_fused,
        "model.layers.0.mlp.experts.": _hf_new,
        "model.layers.0.mlp.": _hf_dense,
        "layers.0.feed_forward.experts.": partial(_mistral, head_dim, "feed_forward.experts.{expert}.{matrix}"),
        "layers.0.feed_forward.": partial(_mistral, head_dim, "feed_forward.{matrix}"),
        "layers.0.block_sparse_moe.": partial(_mistral_stacked, head_dim),
    }


def _hf(name: str, shape: tuple[int, ...]) -> Location:
    return Location(name)


def _hf_new(name: str, shape: tuple[int, ...]) -> Location:
    if expert := EXPERT.fullmatch(name):
        projection = PROJECTIONS[expert["matrix"]]
        return Location(f"model.layers.{expert['layer']}.mlp.experts.{expert['expert']}.{projection}")
    return Location(name.replace(".block_sparse_moe.", ".mlp."))


def _hf_fused(name: str, shape: tuple[int, ...]) -> Location:
    """Find experts in ``gate_up_proj`` [E, 2 F, D] and ``down_proj`` [E, D, F]."""
    expert = EXPERT.fullmatch(name)
    if not expert:
        return Location(name.replace(".block_sparse_moe.", ".mlp."))
    prefix, index = f"model.layers.{expert['layer']}.mlp.experts.", int(expert["expert"])
    if expert["matrix"] == "w2":
        return Location(f"{prefix}down_proj", "", (index,))
    start = 0 if expert["matrix"] == "w1" else shape[0]
    return Location(f"{prefix}gate_up_proj", "", (index, slice(start, start + shape[0])))


def _hf_dense(name: str, shape: tuple[int, ...]) -> Location:
    if expert := EXPERT.fullmatch(name):
        return Location(f"model.layers.{expert['layer']}.mlp.{PROJECTIONS[expert['matrix']]}")
    return Location(name)


def _mistral(head_dim: int, expert_name: str, name: str, shape: tuple[int, ...]) -> Location:
    if expert := EXPERT.fullmatch(name):
        return Location(f"layers.{expert['layer']}." + expert_name.format(**expert.groupdict()))
    rotary_head_dim = head_dim if name.endswith(ROTARY) else 0
    return Location(_mistral_name(name), rotary_head_dim=rotary_head_dim)


def _mistral_stacked(head_dim: int, name: str, shape: tuple[int, ...]) -> Location:
    """Find experts in ``w1``, ``w2`` and ``w3`` [E F, D] of the first release, w2 turned over."""
    expert = EXPERT.fullmatch(name)
    if not expert:
        plain = _mistral(head_dim, "", name, shape)
        return Location(
            plain.prefix.replace("feed_forward.gate", "block_sparse_moe.gate"), rotary_head_dim=plain.rotary_head_dim
        )
    is_down = expert["matrix"] == "w2"
    width = shape[1] if is_down else shape[0]
    start = int(expert["expert"]) * width
    prefix = f"layers.{expert['layer']}.block_sparse_moe.{expert['matrix']}"
    return Location(prefix, "", (slice(start, start + width),), is_transposed=is_down)


def _mistral_name(name: str) -> str:
    if name in MISTRAL:
        return MISTRAL[name]
    _, layers, layer, rest = name.split(".", 3)
    return f"{layers}.{layer}.{MISTRAL[rest]}"
