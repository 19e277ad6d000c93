"""Requests and replies of TGI's API. Knows fields, not what is done with them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from expertmesh.gateway.generation_request import MAX_SEQUENCES, MAX_STOPS
from expertmesh.gateway.http.field_rules import refused
from expertmesh.gateway.http.long_json import Long, LongReply
from expertmesh.gateway.http.openai.fields import MAX_COUNT, StopString
from expertmesh.gateway.http.parameters import parameter
from expertmesh.gateway.http.schema import Only, ReplyModel, RequestModel, absent_when_none
from expertmesh.model.sampling import PARAMETERS

DEFAULT_MAX_NEW_TOKENS = 100


class JsonGrammar(RequestModel):
    """JSON that fits a schema."""

    type: Literal["json"]
    value: dict[str, Any] | str = Field(description="A JSON schema, or its text.")


class NamedSchema(RequestModel):
    """A JSON schema under a name."""

    name: str | None = Field(default=None, description="Not used.")
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON schema.")


class JsonSchemaGrammar(RequestModel):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    value: NamedSchema


class RegexGrammar(RequestModel):
    """Text that a regular expression matches as a whole."""

    type: Literal["regex"]
    value: str


GrammarField = Annotated[JsonGrammar | JsonSchemaGrammar | RegexGrammar, Field(discriminator="type")]


class Parameters(RequestModel):
    """How to generate. Tokens are drawn if do_sample says so, or says nothing and a parameter of drawing is set."""

    rules = (
        refused("a mark in the choice of tokens", "watermark", unless=(False,)),
        refused("an adapter of the model", "adapter_id"),
    )

    max_new_tokens: int | None = parameter(
        "max_tokens", f"{PARAMETERS['max_tokens'].text} Default: {DEFAULT_MAX_NEW_TOKENS}.", le=MAX_COUNT
    )
    do_sample: bool | None = Field(default=None, description="False = always the most probable token.")
    temperature: float | None = parameter("temperature", "Logits are divided by it. Default: 1.", ge=None, gt=0)
    top_k: int | None = parameter("top_k", le=MAX_COUNT)
    top_p: float | None = parameter("top_p")
    typical_p: float | None = parameter("typical_p")
    repetition_penalty: float | None = parameter("repetition_penalty")
    frequency_penalty: float | None = parameter("frequency_penalty")
    seed: int | None = parameter("seed", "Makes drawing repeatable.")
    stop: list[StopString] | None = Field(
        default=None,
        max_length=MAX_STOPS,
        fail_fast=True,
        description="Strings that end the text and are not part of it.",
    )
    truncate: int | None = Field(default=None, ge=1, le=MAX_COUNT, description="Keep so many tokens, the last.")
    return_full_text: bool | None = Field(default=None, description="Put the inputs before the generated text.")
    best_of: int | None = Field(
        default=None, ge=1, le=MAX_SEQUENCES, description="Texts to generate; the most probable one is returned."
    )
    details: bool | None = Field(default=None, description="Return the tokens and how the text ended.")
    decoder_input_details: bool | None = Field(
        default=None, description="Return how probable the tokens of the inputs were; not in a stream."
    )
    top_n_tokens: int | None = parameter("logprobs", "Return so many of the most probable tokens in place of each.")
    grammar: GrammarField | None = Field(default=None, description="What the text has to look like.")


class InputsRequest(RequestModel):
    """A text to continue."""

    inputs: str = Field(description="A text; the begin-of-sequence token is put before it.", examples=["Hello world"])
    parameters: Parameters | None = None


class CompatRequest(InputsRequest):
    """A text to continue, at once or as a stream."""

    stream: bool | None = Field(default=None, description="Send the text token by token, as server-sent events.")


class GenerateRequest(InputsRequest):
    """A text to continue, at once."""

    stream: Annotated[Any, Only(False)] = None


class StreamRequest(InputsRequest):
    """A text to continue as a stream."""

    stream: Annotated[Any, Only(True)] = None


class ErrorReply(ReplyModel):
    """An error."""

    error: str = Field(description="What was found, and what would be right.")
    error_type: str = Field(examples=["validation"])


class PrefillToken(ReplyModel):
    """A token of the inputs."""

    id: int
    text: str
    logprob: float | None = Field(description="Natural logarithm of its probability; null for the first.")


class Token(ReplyModel):
    """A token of the text."""

    id: int
    text: str = Field(description="The text that became certain with it; in top_tokens its own.")
    logprob: float = Field(description="Natural logarithm of its probability, before any parameter.")
    special: bool = Field(description="Whether it has no text, like end-of-sequence.")


FinishReason = Literal["length", "eos_token", "stop_sequence"]


class BestOfSequence(LongReply):
    """How a text came about."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: Long[PrefillToken] = Field(description="Tokens of the inputs, where decoder_input_details asked for them.")
    tokens: Long[Token]
    top_tokens: Long[list[Token]] | None = absent_when_none("Only where top_n_tokens asked for them.")


class NamedSequence(BestOfSequence):
    """A text that was generated, but not the best one."""

    generated_text: str


class Details(BestOfSequence):
    """How the returned text came about."""

    best_of_sequences: list[NamedSequence] | None = absent_when_none("The other texts of best_of.")


class Generation(LongReply):
    """A text."""

    generated_text: str
    details: Details | None = absent_when_none("Only where details asked for them.")


class StreamDetails(ReplyModel):
    """How a text came about."""

    finish_reason: FinishReason
    generated_tokens: int
    input_length: int
    seed: int | None


class StreamEvent(ReplyModel):
    """A token of a stream; the last one has the whole text."""

    index: int = Field(description="1 for the first token.")
    token: Token
    top_tokens: list[Token] | None = absent_when_none("Only where top_n_tokens asked for them.")
    generated_text: str | None = None
    details: StreamDetails | None = None


class Info(ReplyModel):
    """The served model and the bounds of requests."""

    model_id: str
    model_sha: str = Field(description="Fingerprint of the model.")
    model_pipeline_tag: str = "text-generation"
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    router: str = "expertmesh"
    version: str
