"""What the clients are asked for: numbers within bounds, so that a small model comes to an end."""

from pydantic import BaseModel, ConfigDict, Field

MAX_TOKENS = 300


class Subtract(BaseModel):
    """The difference of two numbers."""

    model_config = ConfigDict(extra="forbid")

    a: int = Field(ge=0, le=999, description="The number to subtract from.")
    b: int = Field(ge=0, le=999, description="The number to subtract.")
