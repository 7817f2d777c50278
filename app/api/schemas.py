"""What all JSON in and out has in common."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema, field_validator

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(value: Any) -> Any:
    """Refuses text that Postgres can't hold: NUL characters and lone surrogates are valid JSON all the same."""
    texts = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else [value]
    for text in texts:
        if isinstance(text, str) and _UNSTORABLE.search(text):
            raise ValueError("Text must not contain NUL characters or lone surrogates")
    return value


class Input(BaseModel):
    """The body of a request: unknown fields are refused, so that a misspelt one is no silent surprise."""

    model_config = ConfigDict(extra="forbid", strict=True)  # "3" is no number, and true is not 1

    _storable = field_validator("*", mode="before")(storable)


class Output(BaseModel):
    """The body of an answer, made from keywords or from a row's attributes."""

    model_config = ConfigDict(from_attributes=True)


Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=500)]],
    Field(
        max_length=50, description="The caller's own notes, kept at Stripe: up to 50, names of 40 characters at most"
    ),
]
"""Stripe's limits (docs.stripe.com/api/metadata), so that what it would refuse is refused with the field's name."""

DecimalNumber = Annotated[
    Decimal,
    # A float's shortest text is the exact decimal up to 15 digits; Stripe's amounts have at most 12.
    PlainSerializer(float, return_type=float),
    WithJsonSchema({"type": "number"}),
]
