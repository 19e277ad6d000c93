"""What chat and text completion requests have in common. Knows fields, not sampling."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator
from pydantic_core import PydanticCustomError

from expertmesh.gateway.generation_request import MAX_BIASES, MAX_SEQUENCES, MAX_STOP_IDS, MAX_STOPS
from expertmesh.gateway.http.openai import unused_fields
from expertmesh.gateway.http.parameters import parameter
from expertmesh.gateway.http.schema import RequestModel
from expertmesh.model.sampling import PARAMETERS

# No number of tokens comes near it, and every library can count so far.
MAX_COUNT = 2**31 - 1

TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
StopString = Annotated[str, StringConstraints(min_length=1)]
Bias = Annotated[float, Field(**PARAMETERS["logit_bias"].bounds)]
BiasKey = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


JsonSource = dict[str, Any] | str
# Beyond it, no grammar would be compiled in time.
MAX_CHOICES = 4096
Choices = Annotated[list[StopString], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]


def _text_or_list(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<list>"


Stop = Annotated[
    Annotated[StopString, Tag("<text>")]
    | Annotated[list[StopString], Tag("<list>"), Field(max_length=MAX_STOPS, fail_fast=True)],
    Discriminator(_text_or_list),
]


class StreamOptions(RequestModel):
    """What a stream holds besides the text."""

    rules = unused_fields.STREAM_OPTIONS

    include_usage: bool | None = Field(default=None, description="Send the counts in a last chunk without choices.")
    continuous_usage_stats: bool | None = Field(
        default=None, description="Send the counts so far in every chunk; only with include_usage."
    )


class TextFormat(RequestModel):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    """Any JSON object, or in TGI's form JSON that fits a schema."""

    type: Literal["json_object", "json"]
    value: JsonSource | None = Field(default=None, description="A JSON schema, or its text.")


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


class RegexFormat(RequestModel):
    """Text that a regular expression matches as a whole, in TGI's form."""

    type: Literal["regex"]
    value: str


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat, Field(discriminator="type")]


class StructuredOutputs(RequestModel):
    """What an answer has to look like, in vLLM's form: one of these."""

    rules = unused_fields.STRUCTURED_OUTPUTS

    json_: JsonSource | None = Field(default=None, alias="json", description="A JSON schema, or its text.")
    regex: str | None = Field(default=None, description="A regular expression that matches the whole answer.")
    choice: Choices | None = Field(default=None, description="Texts of which the answer is one.")
    grammar: str | None = Field(default=None, description="Rules in Lark or GBNF.")
    json_object: bool | None = Field(default=None, description="Any JSON object.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if sum(value not in (None, False) for _, value in self) != 1:
            raise PydanticCustomError("unsupported", "needs one of json, regex, choice, grammar and json_object")
        return self


class CompletionFields(RequestModel):
    """Fields of both kinds of completions. What a request leaves out is what generation_config.json says."""

    rules = unused_fields.COMPLETIONS

    model: str | None = Field(
        default=None, description='A name of the served model, or "dummy" or "tgi". Default: the served model.'
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
        default=None, max_length=MAX_BIASES, description=PARAMETERS["logit_bias"].text, examples=[{"15043": -100}]
    )
    n: int | None = Field(default=None, ge=1, le=MAX_SEQUENCES, description="Answers to return.")
    best_of: int | None = Field(
        default=None, ge=1, le=MAX_SEQUENCES, description="Answers to generate; the n most probable are returned."
    )
    seed: int | None = parameter("seed", "Makes sampling repeatable. A negative one is taken modulo 2^64.", ge=-(2**63))
    random_seed: int | None = parameter("seed", "Mistral's name of seed.", ge=-(2**63))
    stop: Stop | None = Field(default=None, description="Strings that end an answer and are not part of it.")
    include_stop_str_in_output: bool | None = Field(
        default=None, description="What ends an answer is part of it: the stop string, or the text of a control token."
    )
    stop_token_ids: TokenIds | None = Field(
        default=None, max_length=MAX_STOP_IDS, description=PARAMETERS["stop_ids"].text
    )
    ignore_eos: bool | None = parameter("ignore_eos")
    skip_special_tokens: bool | None = Field(
        default=None, description="False = answers hold the names of control tokens, but for the one that ends them."
    )
    truncate_prompt_tokens: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="Keep so many tokens of the prompt, the last."
    )
    stream: bool | None = Field(default=None, description="Send the answer piece by piece, as server-sent events.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with stream.")
    response_format: ResponseFormat | None = Field(default=None, description="What answers have to look like.")
    structured_outputs: StructuredOutputs | None = Field(default=None, description="The same in vLLM's form.")
    guided_json: JsonSource | None = Field(default=None, description="As structured_outputs.json.")
    guided_regex: str | None = Field(default=None, description="As structured_outputs.regex.")
    guided_choice: Choices | None = Field(default=None, description="As structured_outputs.choice.")
    guided_grammar: str | None = Field(default=None, description="As structured_outputs.grammar.")
    prompt_logprobs: int | None = parameter("prompt_logprobs")
    return_token_ids: bool | None = Field(default=None, description="Return the ids of prompts and answers.")
    no_replica: Literal["wait", "fail", "drop"] | None = Field(
        default=None,
        description="When an expert has no replica: wait for one, fail at once, or go on without it (drop). "
        "Default: as the gateway is set.",
    )
    return_routed_experts: bool | None = Field(
        default=None, description="Return the experts of the row that produced each token: ids by layer."
    )
