"""From the fields of a request to what the generator takes. Knows both sides, no replies."""

from collections.abc import Sequence
from dataclasses import replace

from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.http.errors import ModelNotFoundError, ParameterError
from expertmesh.gateway.http.openai.fields import CompletionFields
from expertmesh.gateway.http.openai.wanted_grammar import read_grammar
from expertmesh.gateway.http.parameters import given
from expertmesh.model.sampling import MAX_SEED, SamplingParams

# Names that clients send which know only a URL: huggingface_hub and those written for TGI.
ANY_MODEL = ("dummy", "tgi")

# What SamplingParams has in another form.
_CONVERTED = ("top_k", "seed", "logit_bias", "logprobs")


def check_model(name: str | None, names: Sequence[str]) -> None:
    """Raise ModelNotFoundError if a request names another model than that of ``names``."""
    if name not in (None, *names, *ANY_MODEL):
        served = f"{', '.join(map(repr, names))} {'is' if len(names) == 1 else 'are'}"
        raise ModelNotFoundError(f"model {name!r} is not served here; {served}")


def truncated(prompt_ids: list[int], body: CompletionFields) -> list[int]:
    """Keep as much of a prompt as the request wants, its end."""
    return prompt_ids[-(body.truncate_prompt_tokens or 0) :]


def generation_request(
    body: CompletionFields, prompt_ids: list[int], defaults: SamplingParams, continues_text: bool = False
) -> GenerationRequest:
    """Lay the fields that a request sets over the defaults; ParameterError where two contradict each other."""
    _check(body)
    return GenerationRequest(
        prompt_ids=tuple(prompt_ids),
        sampling=_sampling(body, defaults),
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        n=body.n or 1,
        best_of=body.best_of,
        grammar=read_grammar(body),
        return_routed_experts=bool(body.return_routed_experts),
        no_replica=body.no_replica or "",
        continues_text=continues_text,
        skips_special_tokens=body.skip_special_tokens is not False,
        includes_stop=bool(body.include_stop_str_in_output),
    )


def _check(body: CompletionFields) -> None:
    options = body.stream_options
    if options is not None and not body.stream and (options.include_usage or options.continuous_usage_stats):
        raise ParameterError("stream_options", "is only for requests with stream")
    if body.best_of is not None and body.best_of < (body.n or 1):
        raise ParameterError("best_of", f"is {body.best_of}; it must be at least n, {body.n}")
    if body.stream and body.best_of is not None and body.best_of > (body.n or 1):
        raise ParameterError("best_of", "answers are compared when all are complete; they cannot be streamed")
    if None not in (body.seed, body.random_seed) and body.seed != body.random_seed:
        raise ParameterError("random_seed", f"is {body.random_seed}, but seed is {body.seed}")


def _sampling(body: CompletionFields, defaults: SamplingParams) -> SamplingParams:
    params = replace(defaults, **given(body, but=_CONVERTED))
    if body.top_k is not None:
        params = replace(params, top_k=max(body.top_k, 0))
    seed = body.random_seed if body.seed is None else body.seed
    if seed is not None:
        params = replace(params, seed=seed % (MAX_SEED + 1))
    if body.logit_bias:
        params = replace(params, logit_bias=tuple((int(key), bias) for key, bias in body.logit_bias.items()))
    return replace(params, stop_ids=tuple(body.stop_token_ids or ()))
