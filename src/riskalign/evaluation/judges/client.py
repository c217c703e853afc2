"""One call of an OpenAI-compatible chat endpoint, with retries; the key never leaves the header.

Everything that comes back is untrusted: redirects are not followed, replies' bodies are limited in
size and time (`JudgeSettings.timeout` says what is not), and no error message repeats a reply to a
call that was refused over its key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import requests

from riskalign.errors import EndpointFailed, InputError
from riskalign.evaluation.judges.settings import JudgeSettings, api_key

_RETRIED = (408, 425, 429)
_LONGEST_WAIT = 600.0
_LARGEST_REPLY = 4 * 2**20
_FILTERED = re.compile(r"content_filter|content_policy|responsible_?ai", re.IGNORECASE)
# The first in a code or type (OpenAI, llama.cpp), the others in a message (vLLM).
_TOO_LONG = re.compile(
    r"context_(length|size|window)|maximum (context|model) length", re.IGNORECASE
)


class Turn(NamedTuple):
    """One message of a conversation with a judge; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Reply:
    """What a judge replied; `usage` is (prompt, completion) tokens, None where it was not told.

    `refused`: the endpoint itself says so, by a filter or in its field for refusals. `too_long`: it
    says that the messages are more than the judge can read.
    """

    text: str
    usage: tuple[int, int] | None = None
    refused: bool = False
    too_long: bool = False


class QuestionRefused(InputError):  # noqa: N818 - it says what happened
    """The endpoint takes this call for a wrong one, which may lie in what it was asked."""


class _Again(Exception):  # noqa: N818 - not an error: the call is made again
    """What went wrong with a call that may be made again, and the seconds to wait if it said so."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class Client:
    """Asks one endpoint; may be shared by threads.

    Args:
        settings: whom to ask; the key is read from its variable now.
        sleep: waits between tries; by default a wait that `stop` cuts short.

    Raises:
        InputError: the key's variable is missing.
    """

    def __init__(
        self, settings: JudgeSettings, sleep: Callable[[float], object] | None = None
    ) -> None:
        self._settings = settings
        self._key = api_key(settings)
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait

    def stop(self) -> None:
        """Make no further try, ever; what waits for one ends with `EndpointFailed`."""
        self._stopped.set()

    def ask(self, messages: Sequence[Turn]) -> Reply:
        """The reply to a conversation.

        Raises:
            InputError: a status that trying again does not change: 401, 403, 404 and the like;
                `QuestionRefused` for one such as 400.
            EndpointFailed: none came after all retries.
        """
        body = request_body(self._settings, messages)
        tries = self._settings.max_retries + 1
        for attempt in range(tries):
            if self._stopped.is_set():
                raise EndpointFailed("stopped before the judge was asked.")
            try:
                return self._reply(*self._post(body))
            except _Again as trouble:
                if attempt == tries - 1:
                    raise EndpointFailed(
                        f"{self._settings.host}: {trouble} ({tries} tries). Replies so far are "
                        "kept; the same command goes on once the endpoint answers."
                    ) from None
                # An endpoint that asks for no wait at all still gets one.
                self._sleep(max(trouble.wait, backoff(attempt, str(body))))
        raise AssertionError("the loop returns or raises")

    def _post(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one call's response."""
        timeout, host = self._settings.timeout, self._settings.host
        deadline = time.monotonic() + timeout
        raw = bytearray()
        try:
            with requests.post(
                self._url,
                json=body,
                auth=self._sign,  # given always, so that no `.netrc` fills in another's secret
                timeout=timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                # Larger blocks would be waited for, and a slow drip could outlast any deadline.
                for byte in response.iter_content(1):
                    raw += byte
                    if len(raw) > _LARGEST_REPLY:
                        raise _Again(f"a reply of more than {_LARGEST_REPLY >> 20} MiB")
                    if time.monotonic() > deadline:
                        raise requests.Timeout
                return response.status_code, response.headers, bytes(raw)
        except requests.Timeout:
            raise _Again(f"no reply within {timeout:g} s") from None
        except (
            requests.ConnectionError,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            if "SSLCertVerificationError" in str(error):
                raise InputError(
                    f"base_url: the certificate of {host} is not trusted. Mend it, or name its "
                    "authority's file in REQUESTS_CA_BUNDLE."
                ) from None
            raise _Again("the connection failed or broke off") from None
        except (requests.RequestException, ValueError) as error:
            # Its message could hold the request's header.
            raise InputError(f"base_url: cannot be asked ({type(error).__name__}).") from None
        except OSError:
            raise InputError(
                f"base_url: there is nothing to check the certificate of {host} with. If "
                "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE is set, it must name a file of certificates."
            ) from None

    def _sign(self, request: Any) -> Any:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _hide(self, text: str) -> str:
        """The text without the key, as it is or in JSON's escapes, which are undone later on."""
        return re.sub("".join(map(_in_json, self._key)), "[key]", text) if self._key else text

    def _reply(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        """The reply that a response is; an error says what it is instead."""
        host = self._settings.host
        if status == 200:
            reply = read_reply(raw)
            # Replies are kept on disk, where the key must not be, whoever put it into one.
            return dataclasses.replace(reply, text=self._hide(reply.text))
        said = _said(raw)
        plain = "".join(c if c.isprintable() else " " for c in said["message"])
        shown = f": {self._hide(plain)[:300]}" if plain else ""
        if status in _RETRIED or status >= 500:
            # Too many requests, or no money left: the message tells which.
            told = f"status {status}{shown if status == 429 else ''}"
            wait = retry_after(headers.get("Retry-After"), datetime.now(timezone.utc)) or 0.0
            if wait > _LONGEST_WAIT:
                raise EndpointFailed(
                    f"{host}: {told}, to be asked again in {wait:.0f} s. Run the same command "
                    "then; replies so far are kept."
                )
            raise _Again(told, wait)
        if status == 400 and _FILTERED.search(said["code"]):
            return Reply("", refused=True)
        if status == 413 or (status == 400 and _TOO_LONG.search(" ".join(said.values()))):
            return Reply("", (0, 0), too_long=True)
        if status in (401, 403):
            raise InputError(
                f"{host}: refuses the call (status {status}). Check the key in the variable that "
                "api_key_env names, and what it may be used for."
            )
        if 300 <= status < 400:
            raise InputError(f"{host}: redirects (status {status}). Give the final base_url.")
        if status == 404:
            raise InputError(
                f"{host}: status 404{shown}. Check base_url (it often ends in /v1) and judge_model."
            )
        raise QuestionRefused(
            f"{host}: status {status}{shown}. Check judge_model and the other settings."
        )


def request_body(settings: JudgeSettings, messages: Sequence[Turn]) -> dict[str, Any]:
    """The JSON body of a call, which together with the address decides the reply."""
    temperature = settings.temperature
    if temperature is not None and temperature == int(temperature):
        temperature = int(temperature)  # as it was asked for, so that kept replies are found
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [message._asdict() for message in messages],
        settings.max_tokens_field: settings.max_tokens,
        "temperature": temperature,
        "seed": settings.seed,
    }
    return {name: value for name, value in body.items() if value is not None}


def backoff(attempt: int, of: str) -> float:
    """Seconds before try `attempt` + 2: 1, 2, 4, ... up to 60, less up to half by a draw.

    The draw is seeded by the call `of` which it is, so that threads differ and runs do not.
    """
    return float(min(60.0, 2.0**attempt) * random.Random(f"{attempt} {of}").uniform(0.5, 1.0))


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or a date); None where it asks none."""
    value = value or ""
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value):
        return float(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        until = parsedate_to_datetime(value)
        until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
        return max(0.0, (until - now).total_seconds())
    return None


def read_reply(raw: bytes) -> Reply:
    """The reply in a chat completion's JSON; `_Again` where it is none."""
    try:
        content = json.loads(raw)
        choice = content["choices"][0]
        text, said = (choice["message"].get(field) for field in ("content", "refusal"))
        filtered = choice.get("finish_reason") == "content_filter"
    except (ValueError, RecursionError):
        raise _Again("a reply that is not JSON") from None
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _Again("a reply without choices[0].message, so no chat completion") from None
    if text is not None and not isinstance(text, str):
        raise _Again("a reply whose choices[0].message.content is no text")
    usage = content.get("usage")
    fields = usage if isinstance(usage, dict) else {}
    numbers: Any = fields.get("prompt_tokens"), fields.get("completion_tokens")
    known = all(type(number) is int and 0 <= number < 10**9 for number in numbers)
    refused = filtered or (isinstance(said, str) and bool(said.strip()))
    return Reply(text or "", numbers if known else None, refused)


def _in_json(character: str) -> str:
    """A pattern for every way in which a JSON string may hold a character."""
    slash = r"\\?" if character in '"/\\' else ""
    return rf"(?:{slash}{re.escape(character)}|\\u00(?i:{ord(character):02x}))"


def _said(raw: bytes) -> dict[str, str]:
    """`code`, `type` and `message` under `error`, as OpenAI has it; else as others have them."""
    try:
        whole = json.loads(raw)
    except (ValueError, RecursionError):
        whole = None
    whole = whole if isinstance(whole, dict) else {}
    error = whole.get("error")
    fields = dict(error if isinstance(error, dict) else whole)
    if fields.get("message") is None:
        fields["message"] = error if isinstance(error, str) else whole.get("detail")
    texts = {name: fields.get(name) for name in ("code", "type", "message")}
    return {name: text if isinstance(text, str) else "" for name, text in texts.items()}
