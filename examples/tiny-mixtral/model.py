"""A small Mixtral that can be trained on a CPU. Knows layers, not text.

Alphabet: B conversations, T tokens, H query heads, K key-value heads, d head width, E experts, A chosen per token,
D hidden width, F FFN width, R (token, expert) pairs.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

BITS = 4


@dataclass(frozen=True)
class TinyConfig:
    """The shape of the model; ``group_size`` is that of its 4-bit version."""

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    num_experts: int = 8
    num_chosen: int = 2
    rope_theta: float = 10000.0
    max_positions: int = 512
    group_size: int = 64


def fake_quantize(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Round to what 4 bits can hold, as ``round_to_nearest`` does, and let the gradient pass (Bengio et al., 2013)."""
    groups = weight.detach().unflatten(-1, (-1, group_size))
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    top = 2**BITS - 1
    scales = ((high - low) / top).clamp(min=2.0**-14).half().float()
    zeros = (-low / scales).round().clamp(0, top)
    rounded = (((groups / scales).round() + zeros).clamp(0, top) - zeros) * scales
    return weight + (rounded.flatten(-2) - weight).detach()


class Layer(nn.Module):
    """Attention and a mixture of experts, with their norms."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.hidden_size, config.intermediate_size
        num_q, num_kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.input_norm = nn.Parameter(torch.ones(width))
        self.expert_norm = nn.Parameter(torch.ones(width))
        self.q, self.k, self.v = _matrix(num_q, width), _matrix(num_kv, width), _matrix(num_kv, width)
        self.o = _matrix(width, num_q, scale=1 / 3)
        self.gate = _matrix(config.num_experts, width)
        self.w_gate_up = _matrix(config.num_experts, 2 * inner, width)
        self.w_down = _matrix(config.num_experts, width, inner, scale=1 / 3)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_quantized: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states [B, T, D] after this layer and its load-balancing loss."""
        x = x + self._attend(_norm(x, self.input_norm), cos, sin, is_quantized)
        added, balance = self._run_experts(_norm(x, self.expert_norm).flatten(0, 1), is_quantized)
        return x + added.view_as(x), balance

    def _weight(self, weight: torch.Tensor, is_quantized: bool) -> torch.Tensor:
        return fake_quantize(weight, self.config.group_size) if is_quantized else weight

    def _attend(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_quantized: bool) -> torch.Tensor:
        repeats = self.config.num_heads // self.config.num_kv_heads
        q, k, v = (
            F.linear(x, self._weight(w, is_quantized)).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
            for w in (self.q, self.k, self.v)
        )  # [B, H, T, d], [B, K, T, d] twice
        q, k = q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return F.linear(attended, self._weight(self.o, is_quantized))

    def _run_experts(self, x: torch.Tensor, is_quantized: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the chosen experts on ``x`` [B * T, D], with the load-balancing loss of Fedus et al. (2021)."""
        num_experts, num_chosen = self.config.num_experts, self.config.num_chosen
        logits = F.linear(x, self.gate)  # [B * T, E]
        chosen, ids = logits.topk(num_chosen, dim=-1)
        order = ids.flatten().argsort(stable=True)  # [R], by expert
        counts = torch.bincount(ids.flatten(), minlength=num_experts)
        balance = num_experts * (counts / counts.sum() * logits.softmax(-1).mean(0)).sum()
        w_gate_up, w_down = self._weight(self.w_gate_up, is_quantized), self._weight(self.w_down, is_quantized)
        outputs = []
        for expert, rows in enumerate(x[order // num_chosen].split(counts.tolist())):
            gate, up = F.linear(rows, w_gate_up[expert]).chunk(2, dim=-1)
            outputs.append(F.linear(F.silu(gate) * up, w_down[expert]))
        weighted = torch.cat(outputs) * chosen.softmax(-1).flatten()[order, None]  # [R, D]
        return torch.zeros_like(x).index_add(0, order // num_chosen, weighted), balance


class TinyMixtral(nn.Module):
    """The whole model; its weights go by HF's names in ``state_by_hf_name``."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = _matrix(config.vocab_size, config.hidden_size, scale=4)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        self.head = _matrix(config.vocab_size, config.hidden_size)

    def forward(self, ids: torch.Tensor, wanted: torch.Tensor, is_quantized: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits at the positions ``wanted`` [B, T] (bool) of ``ids`` [B, T], and the balancing loss."""
        x = self.embedding[ids]
        cos, sin = _angles(self.config, ids.shape[1])
        balance = torch.zeros(())
        for layer in self.layers:
            x, layer_balance = layer(x, cos, sin, is_quantized)
            balance = balance + layer_balance
        return F.linear(_norm(x, self.norm)[wanted], self.head), balance / self.config.num_layers

    def state_by_hf_name(self) -> dict[str, torch.Tensor]:
        """The weights as MixtralForCausalLM names and shapes them."""
        state = {
            "model.embed_tokens.weight": self.embedding,
            "model.norm.weight": self.norm,
            "lm_head.weight": self.head,
        }
        for index, layer in enumerate(self.layers):
            prefix = f"model.layers.{index}"
            state[f"{prefix}.input_layernorm.weight"] = layer.input_norm
            state[f"{prefix}.post_attention_layernorm.weight"] = layer.expert_norm
            state[f"{prefix}.block_sparse_moe.gate.weight"] = layer.gate
            for name in "qkvo":
                state[f"{prefix}.self_attn.{name}_proj.weight"] = getattr(layer, name)
            for expert in range(self.config.num_experts):
                w1, w3 = layer.w_gate_up[expert].chunk(2)
                for name, weight in (("w1", w1), ("w2", layer.w_down[expert]), ("w3", w3)):
                    state[f"{prefix}.block_sparse_moe.experts.{expert}.{name}.weight"] = weight
        return {name: weight.detach().contiguous() for name, weight in state.items()}


def _matrix(*shape: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.06 * scale)


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, weight.shape, weight, 1e-5)


def _angles(config: TinyConfig, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = config.rope_theta ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)  # [T, d]
    return angles.cos(), angles.sin()


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
