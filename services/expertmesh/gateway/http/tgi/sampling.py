"""From TGI's parameters to what the generator takes. Knows both sides, no replies."""

import json
import secrets

from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.http.parameters import given
from expertmesh.gateway.http.tgi.models import (
    DEFAULT_MAX_NEW_TOKENS,
    GrammarField,
    JsonGrammar,
    JsonSchemaGrammar,
    Parameters,
    RegexGrammar,
)
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.grammar import Grammar, GrammarKind


def generation_request(parameters: Parameters, prompt_ids: list[int], continues_text: bool) -> GenerationRequest:
    """Say what to generate. What is not set is as TGI has it: the model's own defaults count for nothing here."""
    return GenerationRequest(
        prompt_ids=tuple(prompt_ids),
        sampling=_sampling(parameters),
        stop=tuple(parameters.stop or ()),
        n=parameters.best_of or 1,
        grammar=_grammar(parameters.grammar),
        continues_text=continues_text,
    )


def _sampling(parameters: Parameters) -> SamplingParams:
    draws = _draws(parameters)
    return SamplingParams(
        **given(parameters, but=("temperature", "seed")),
        max_tokens=parameters.max_new_tokens or DEFAULT_MAX_NEW_TOKENS,
        temperature=(parameters.temperature or 1.0) if draws else 0.0,
        # Replies name the seed, also where the client left it open.
        seed=secrets.randbits(63) if draws and parameters.seed is None else parameters.seed,
        logprobs=parameters.top_n_tokens or 0,
        prompt_logprobs=0 if parameters.decoder_input_details else None,
    )


def _draws(parameters: Parameters) -> bool:
    if parameters.do_sample is not None:
        return parameters.do_sample
    how = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    return any(value is not None for value in how)


def _grammar(grammar: GrammarField | None) -> Grammar | None:
    match grammar:
        case JsonGrammar(value=str(source)):
            return Grammar(GrammarKind.JSON_SCHEMA, source)
        case JsonGrammar(value=schema):
            return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
        case JsonSchemaGrammar(value=named):
            return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(named.schema_))
        case RegexGrammar(value=source):
            return Grammar(GrammarKind.REGEX, source)
    return None
