"""Whom to tell about a scheduled run: a command, an address."""

import re
import shlex
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from curate.recipe.types import Settings, listed

__all__ = ["Notify"]

Occasion = Literal["failure", "drift"]

_WEB = re.compile(r"https?://|\$\{\w+\}")
#: What a secret looks like in an address: before @, behind ?, or a long part with a digit, as chats have them.
_SECRET = re.compile(r"[?@]|/(?=[^/]*\d)[^/$]{20,}")


def _words(value: object) -> object:
    """Return a command line as its words; no shell ever sees it."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError:
        raise ValueError(f"must have every quotation mark closed, got {value!r}") from None


class Notify(Settings):
    """What is told when a flow fails, or when the data drifted away from the concepts.

    command : its words (or one text, cut as a shell would cut it, but never given to one); it gets the message
    as JSON on its standard input. webhook : gets the same JSON as a POST. Both may name environment variables as
    ``${NAME}``, which is the place for secrets. on : when.
    """

    command: Annotated[tuple[str, ...], BeforeValidator(_words)] | None = None
    webhook: str | None = None
    on: Annotated[tuple[Occasion, ...], BeforeValidator(listed), Field(min_length=1)] = ("failure", "drift")

    @field_validator("webhook")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not _WEB.match(value):
            raise ValueError("must be an http(s) address, or hold one as ${NAME}")
        if value is not None and _SECRET.search(value):
            raise ValueError(
                "must not hold a secret (a password, a query or a long code), since the recipe is kept with the "
                "run; put the address into an environment variable and give ${NAME}"
            )
        return value

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if not self.command and self.webhook is None:
            raise ValueError("needs a command or a webhook")
        return self
