"""What chat and text completion requests have in common. Knows fields, not sampling."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from expertmesh.gateway.generation_request import MAX_SEQUENCES, MAX_STOPS
from expertmesh.gateway.http.parameters import parameter
from expertmesh.gateway.http.schema import Only, RequestModel
from expertmesh.model.sampling import PARAMETERS

# No number of tokens comes near it, and every library can count so far.
MAX_COUNT = 2**31 - 1

TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
StopString = Annotated[str, StringConstraints(min_length=1)]
Bias = Annotated[float, Field(**PARAMETERS["logit_bias"].bounds)]
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
    max_tokens: int | None = parameter("max_tokens", le=MAX_COUNT)
    min_tokens: int | None = parameter("min_tokens", le=MAX_COUNT)
    temperature: float | None = parameter("temperature")
    top_p: float | None = parameter("top_p")
    top_k: int | None = parameter("top_k", "Keep the k most probable tokens; 0, -1 = all.", ge=-1, le=MAX_COUNT)
    min_p: float | None = parameter("min_p")
    typical_p: float | None = parameter("typical_p")
    repetition_penalty: float | None = parameter("repetition_penalty")
    frequency_penalty: float | None = parameter("frequency_penalty")
    presence_penalty: float | None = parameter("presence_penalty")
    logit_bias: dict[BiasKey, Bias] | None = Field(
        default=None, description=PARAMETERS["logit_bias"].text, examples=[{"15043": -100}]
    )
    n: int | None = Field(default=None, ge=1, le=MAX_SEQUENCES, description="Answers to return.")
    best_of: int | None = Field(
        default=None, ge=1, le=MAX_SEQUENCES, description="Answers to generate; the n most probable are returned."
    )
    seed: int | None = parameter("seed", "Makes sampling repeatable. A negative one is taken modulo 2^64.", ge=-(2**63))
    stop: Stop | None = Field(default=None, description="Strings that end an answer and are not part of it.")
    stop_token_ids: list[TokenId] | None = Field(default=None, description=PARAMETERS["stop_ids"].text)
    ignore_eos: bool | None = parameter("ignore_eos")
    stream: bool | None = Field(default=None, description="Send the answer piece by piece, as server-sent events.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with stream.")
    response_format: ResponseFormat | None = Field(default=None, description="What answers have to look like.")
    prompt_logprobs: int | None = parameter("prompt_logprobs")
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
