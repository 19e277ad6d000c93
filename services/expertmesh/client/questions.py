"""What a gateway is asked for. Knows no transport; ``generation.proto`` says what each field means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Prompt = str | Sequence[int]
"""Raw text, or token ids used as they are."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a function that a model has made; ``arguments`` are JSON."""

    id: str
    name: str
    arguments: str

    def result(self, content: str) -> "Message":
        """Return the message that tells the model what came of it."""
        return Message("tool", content, tool_call_id=self.id)


@dataclass(frozen=True)
class Message:
    """A message of a conversation: ``role`` is "system", "user", "assistant" or "tool"."""

    role: str
    content: str = ""
    name: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None


Chat = str | Iterable[tuple[str, str] | Message]
"""What a user says, or a conversation, oldest first; (role, content) is a message, too."""


@dataclass(frozen=True)
class Tool:
    """A function; ``parameters`` is the JSON schema of its arguments, as JSON or as what ``json.loads`` makes of it."""

    name: str
    description: str | None = None
    parameters: str | Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True)
class ToolUse:
    """What an answer may call: ``choice`` is "auto", "none", "required", or the name of the one to call."""

    tools: Sequence[Tool] = ()
    choice: str = "auto"
    single: bool = False


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; None leaves a field to the gateway."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    stop_ids: Sequence[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True)
class JsonSchema:
    """JSON that is valid under a JSON schema, given as JSON or as what ``json.loads`` makes of it."""

    schema: str | Mapping[str, Any]


@dataclass(frozen=True)
class Regex:
    """Text that a regular expression matches as a whole."""

    pattern: str


ResponseFormat = JsonObject | JsonSchema | Regex


@dataclass(frozen=True)
class Output:
    """What is asked for besides the choice of tokens; ``n`` answers, the best ones of ``best_of``.

    ``no_replica`` says what becomes of the request when an expert has no replica: "wait", "fail" or "drop".
    """

    stop: str | Sequence[str] = ()
    n: int | None = None
    best_of: int | None = None
    response_format: ResponseFormat | None = None
    return_routed_experts: bool = False
    no_replica: str | None = None
