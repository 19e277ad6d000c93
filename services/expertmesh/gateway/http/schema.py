"""What the request and reply models of every shape have in common. Knows pydantic, no endpoint."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from starlette.responses import Response

from expertmesh.gateway.http.field_rules import FieldRule, FieldRules, by_name, is_same, without_idle

# Far more than there are: each that is not known would be an error of its own.
MAX_FIELDS = 256


class RequestModel(BaseModel):
    """A request: an unknown field or a value of another type is refused by name, and null asks for nothing.

    ``rules`` say what else asks for nothing.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    rules: ClassVar[FieldRules] = ()
    _rule_of: ClassVar[Mapping[str, FieldRule]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Look the rules up once for all requests."""
        cls._rule_of = by_name(cls.rules)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_idle(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        if len(fields) > MAX_FIELDS:
            raise PydanticCustomError(
                "unsupported", "has {count} fields; at most {most} are read", {"count": len(fields), "most": MAX_FIELDS}
            )
        return without_idle(fields, cls._rule_of)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the fields of ``rules`` beside those of the model."""
        described = handler(schema)
        properties = handler.resolve_ref_schema(described).setdefault("properties", {})
        for rule in cls.rules:
            properties.update((name, rule.schema) for name in rule.names if name not in properties)
        return described


def text_or(tag: str) -> Discriminator:
    """Tell a text, tagged "<text>", from what else a field may be, which has this ``tag``."""
    return Discriminator(lambda value: "<text>" if isinstance(value, str) else tag)


class ReplyModel(BaseModel):
    """A reply."""

    model_config = ConfigDict(frozen=True)


class Only:
    """Marks a field that this server has no use for: null and ``values``, which ask for nothing, are taken.

    ``hint`` says what to do instead.
    """

    def __init__(self, *values: Any, hint: str = "") -> None:
        self.values = (None, *values)
        self._words = f"is not supported; {hint}" if hint else "is not supported"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self.values)}

    def _check(self, value: Any) -> Any:
        if any(type(value) is type(accepted) and value == accepted for accepted in self.values):
            return value
        raise PydanticCustomError("unsupported", "{words}", {"words": self._words})


def absent_for(value: object) -> BeforeValidator:
    """Have a field of a request be as if left out for one more ``value`` than null."""
    return BeforeValidator(lambda given: None if is_same(given, value) else given)


def absent_when_none(description: str, **more: Any) -> Any:
    """Describe a field of a reply that is left out where there is nothing to say."""
    return Field(default=None, description=description, exclude_if=lambda value: value is None, **more)


def json_response(reply: BaseModel, status: int = 200) -> Response:
    """Answer with ``reply``; the application need not look at it again."""
    return Response(reply.model_dump_json(), status_code=status, media_type="application/json")
