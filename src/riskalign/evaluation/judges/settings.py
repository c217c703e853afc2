"""Which judge is asked, how, and at what price; checked when it is made."""

from __future__ import annotations

import os
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from riskalign.errors import InputError
from riskalign.settings import (
    Count,
    Name,
    NotLess,
    NotNegative,
    Number,
    Positive,
    Whole,
    Words,
    refuse,
    settings,
    wrong,
)


@settings
class JudgeSettings:
    """An OpenAI-compatible endpoint and the limits that it is asked within.

    Raises:
        InputError: a value is out of its range.
    """

    base_url: Words
    """Up to and without /chat/completions, for instance http://127.0.0.1:8000/v1; without a user, a
    query or a fragment."""
    model: Name
    """The judge's name at the endpoint."""
    api_key_env: Words | None = None
    """The environment variable that holds the key; None sends none. The key itself is read when the
    first call is made and kept nowhere."""
    max_tokens: Count = 512
    """Of one reply."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that tells it, max_tokens or max_completion_tokens; some hosted models refuse the
    first."""
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = 0
    """From 0 to 2; None sends none, for models that refuse any but their own."""
    seed: Whole | None = None
    """Sent along where it is not None; not every endpoint knows the field."""
    timeout: Positive = 60.0
    """Seconds to connect, for each wait for the reply's headers, and from the call's start to the
    last byte of its body. Headers that come byte by byte can take longer."""
    max_retries: NotLess = 5
    """Further tries after a timeout, a broken connection, a status 408, 425, 429 or 5xx, or a reply
    that is no chat completion."""
    max_concurrency: Count = 4
    """Calls in flight at once."""
    price_in: NotNegative = 0.0
    """Price of a million prompt tokens, in any currency."""
    price_out: NotNegative = 0.0
    """Price of a million completion tokens, in the same."""
    max_cost: Positive | None = None
    """A call that could carry the cost of the job beyond this is not made; None for no limit."""

    def __post_init__(self) -> None:
        """Check the values."""
        _check_url(self.base_url)
        variable = self.api_key_env
        if variable is not None and not (variable.isascii() and variable.isidentifier()):
            # What was given may be the key itself, so it is not shown.
            raise InputError(
                "api_key_env is no name of an environment variable (its value is not shown here). "
                "Give the name of the variable that holds the key, never the key."
            )
        unpriced = self.max_cost is not None and self.price_in + self.price_out == 0
        refuse(
            wrong("max_cost", unpriced, "needs price_in or price_out: without, no cost is known")
        )

    @property
    def host(self) -> str:
        """The endpoint's host, with its port where one is given."""
        return urlsplit(self.base_url).netloc

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What that many tokens cost, in the currency of the prices."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


def api_key(settings: JudgeSettings) -> str | None:
    """The key from its environment variable; None where the settings name none.

    Raises:
        InputError: the variable is not set, or holds what cannot stand in a header. The message
            shows neither the value nor the name, which might be a key given by mistake.
    """
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key or not all("!" <= character <= "~" for character in key):
        raise InputError(
            "api_key_env: the environment variable that it names is not set or empty, or holds "
            "spaces or other signs that no key has. Put the key alone there, or leave api_key_env "
            "out for an endpoint that needs no key."
        )
    return key


def _check_url(base_url: str) -> None:
    remedy = "Give it as http://HOST:PORT/v1 or https://HOST/v1."
    try:
        parts = urlsplit(base_url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises ValueError for what is no port
        (parts.hostname or "").encode("idna")  # and for what can be no host, such as a..b
    except ValueError:
        known = False
    if not known:
        raise InputError(f"base_url is no address of a web server. {remedy}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Whatever it is may be a secret, so it is not shown.
        raise InputError(
            "base_url holds a user, a query or a fragment. Name the variable that holds the key in "
            f"api_key_env instead. {remedy}"
        )
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise InputError(f"base_url ends in /chat/completions. Leave that out. {remedy}")
