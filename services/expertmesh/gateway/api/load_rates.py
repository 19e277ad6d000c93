"""Rates between two answers of GetLoad. Knows the messages and arithmetic, not where they come from."""

from expertmesh.mesh.expert_load import balancedness, shares
from expertmesh.v1 import load_pb2 as pb


def rates(before: pb.GetLoadResponse, after: pb.GetLoadResponse, seconds: float) -> pb.LoadRates:
    """Say what happened per second between two answers of one gateway, ``seconds`` apart."""
    pairs = list(zip(before.experts, after.experts, strict=True))
    tokens = [_grown(old.tokens, new.tokens) for old, new in pairs]
    return pb.LoadRates(
        seconds=seconds,
        prompt_tokens_per_second=_grown(before.gateway.prompt_tokens, after.gateway.prompt_tokens) / seconds,
        generation_tokens_per_second=_grown(before.gateway.generation_tokens, after.gateway.generation_tokens)
        / seconds,
        experts=[
            _expert_rates(old, new, seconds, share) for (old, new), share in zip(pairs, shares(tokens), strict=True)
        ],
        balancedness=balancedness(tokens),
    )


def _expert_rates(before: pb.ExpertLoad, after: pb.ExpertLoad, seconds: float, share: float) -> pb.ExpertRates:
    layers = zip(before.tokens_by_layer, after.tokens_by_layer, strict=True)
    return pb.ExpertRates(
        expert=after.expert,
        tokens_per_second=_grown(before.tokens, after.tokens) / seconds,
        tokens_per_second_by_layer=[_grown(old, new) / seconds for old, new in layers],
        share=share,
    )


def _grown(before: int, after: int) -> int:
    """Tell by how much a count has grown; an engine that was started again counts from 0."""
    return after - before if after >= before else after
