"""What chat and text completion requests have in common. Knows fields and their ranges, not sampling."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from expertmesh.gateway.generation_request import MAX_SEQUENCES, MAX_STOPS
from expertmesh.gateway.http.schema import Only, RequestModel
from expertmesh.model.sampling import MAX_LOGIT_BIAS, MAX_LOGPROBS, MAX_SEED

# No number of tokens comes near it, and every library can count so far.
MAX_COUNT = 2**31 - 1

TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
StopString = Annotated[str, StringConstraints(min_length=1)]
Bias = Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]
BiasKey = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


def _text_or_list(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<list>"


Stop = Annotated[
    Annotated[StopString, Tag("<text>")] | Annotated[list[StopString], Tag("<list>"), Field(max_length=MAX_STOPS)],
    Discriminator(_text_or_list),
]


class StreamOptions(RequestModel):
    """What a stream holds besides the text."""

    include_usage: bool | None = Field(default=None, description="Send the counts in a last chunk without choices.")
    include_obfuscation: Annotated[Any, Only(False)] = None


class TextFormat(RequestModel):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(RequestModel):
    """A JSON schema under a name."""

    name: str | None = Field(default=None, description="Not used.")
    description: str | None = Field(default=None, description="Not used.")
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON schema that the answer fits.")
    strict: bool | None = Field(default=None, description="Answers always fit the schema, whatever this says.")


class JsonSchemaFormat(RequestModel):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class CompletionFields(RequestModel):
    """Fields of both kinds of completions. What a request leaves out is what the model's generation_config.json says.

    ``user``, ``safety_identifier`` and the ``prompt_cache_`` fields are taken and change nothing: prompts that begin
    alike are computed once in any case.
    """

    model: str | None = Field(
        default=None, description='Name of the served model, or "dummy" or "tgi". Default: the served model.'
    )
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_COUNT, description="Tokens to produce at most.")
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_COUNT, description="Tokens that an answer has at least.")
    temperature: float | None = Field(default=None, ge=0, description="0 = always the most probable token.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Keep the most probable tokens that add up to p.")
    top_k: int | None = Field(
        default=None, ge=-1, le=MAX_COUNT, description="Keep the k most probable tokens; 0, -1 = all."
    )
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Keep tokens at least so many times as probable as the most probable one."
    )
    typical_p: float | None = Field(default=None, gt=0, le=1, description="Locally typical sampling: mass to keep.")
    repetition_penalty: float | None = Field(
        default=None, gt=0, description="Divides logits of tokens seen in prompt or output; above 1 avoids them."
    )
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Lowers the logit of a token for each time it was produced."
    )
    presence_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Lowers the logit of a token that was produced."
    )
    logit_bias: dict[BiasKey, Bias] | None = Field(
        default=None, description="Adds to the logits of tokens, by id.", examples=[{"15043": -100}]
    )
    n: int | None = Field(default=None, ge=1, le=MAX_SEQUENCES, description="Answers to return.")
    best_of: int | None = Field(
        default=None, ge=1, le=MAX_SEQUENCES, description="Answers to generate; the n most probable are returned."
    )
    seed: int | None = Field(
        default=None,
        ge=-(2**63),
        le=MAX_SEED,
        description="Makes sampling repeatable. A negative one is taken modulo 2^64.",
    )
    stop: Stop | None = Field(default=None, description="Strings that end an answer and are not part of it.")
    stop_token_ids: list[TokenId] | None = Field(default=None, description="End an answer with any of these tokens.")
    ignore_eos: bool | None = Field(default=None, description="Go on behind the end-of-sequence token.")
    stream: bool | None = Field(default=None, description="Send the answer piece by piece, as server-sent events.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with stream.")
    response_format: ResponseFormat | None = Field(default=None, description="What answers have to look like.")
    prompt_logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Return how probable each token of the prompt was, and so many alternatives.",
    )
    return_routed_experts: bool | None = Field(
        default=None, description="Return which experts computed each token: ids by layer."
    )
    user: str | None = Field(default=None, description="Changes nothing.")
    safety_identifier: str | None = Field(default=None, description="Changes nothing.")
    prompt_cache_key: str | None = Field(default=None, description="Changes nothing.")
    prompt_cache_retention: str | None = Field(default=None, description="Changes nothing.")
    metadata: Annotated[Any, Only({})] = None
    service_tier: Annotated[Any, Only("auto", "default")] = None
    store: Annotated[Any, Only(False)] = None
