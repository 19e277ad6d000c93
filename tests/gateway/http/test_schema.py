from typing import Annotated, Any

import pytest
from pydantic import ValidationError

from expertmesh.gateway.http.schema import Only, ReplyModel, RequestModel, absent_when_none


class Ask(RequestModel):
    tools: Annotated[Any, Only([], "none")] = None
    count: int = 0


class Say(ReplyModel):
    always: str | None = None
    rarely: str | None = absent_when_none("Only where asked for.")


@pytest.mark.parametrize("value", [None, [], "none"])
def test_values_that_ask_for_nothing_are_taken(value):
    assert Ask(tools=value).tools == value


@pytest.mark.parametrize("value", [[1], "auto", False, 0, {}])
def test_other_values_are_not_supported(value):
    with pytest.raises(ValidationError, match="is not supported"):
        Ask(tools=value)


@pytest.mark.parametrize("fields", [{"other": 1}, {"count": "1"}, {"count": True}, {"count": 1.0}])
def test_unknown_fields_and_other_types_are_refused(fields):
    with pytest.raises(ValidationError):
        Ask.model_validate(fields)


def test_the_schema_lists_what_is_taken():
    assert Ask.model_json_schema()["properties"]["tools"]["enum"] == [None, [], "none"]


def test_some_fields_are_left_out_where_there_is_nothing_to_say():
    assert Say().model_dump_json() == '{"always":null}'
    assert Say(rarely="x").model_dump_json() == '{"always":null,"rarely":"x"}'
