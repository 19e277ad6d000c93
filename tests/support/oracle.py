"""The same weights in transformers, in float32: what our logits must equal."""

import torch
from checkpoints import RandomCheckpoint, Tensors, own_names
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def oracle(checkpoint: RandomCheckpoint) -> PreTrainedModel:
    """Load the plain weights of a checkpoint into transformers."""
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), **config.get("rope_parameters", {})}
    config["dtype"] = torch.float32
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").eval()
    tensors = {name: tensor.float() for name, tensor in checkpoint.dense.items()}
    is_dense = config["model_type"] == "mistral"
    tensors = own_names(tensors, config) if is_dense else _fuse_experts(tensors, checkpoint.config)
    model.load_state_dict(tensors, strict=not checkpoint.config["tie_word_embeddings"])
    return model


def _fuse_experts(dense: Tensors, config: dict) -> Tensors:
    """Join the experts of a layer, as transformers holds them in memory since its version 5."""
    fused = {name.replace("block_sparse_moe", "mlp"): t for name, t in dense.items() if ".experts." not in name}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts"
        experts = range(config["num_local_experts"])
        gate_up = [torch.cat([dense[f"{prefix}.{e}.w1.weight"], dense[f"{prefix}.{e}.w3.weight"]]) for e in experts]
        fused[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
        fused[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack(
            [dense[f"{prefix}.{e}.w2.weight"] for e in experts]
        )
    return fused
