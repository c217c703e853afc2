"""One call of an OpenAI-compatible chat endpoint, with retries; the key never leaves the header.

Everything that comes back is untrusted: redirects are not followed, replies' bodies are limited in
size and time (`JudgeSettings.timeout` says what is not), and no error message repeats a reply to a
call that was refused over its key.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import requests
from requests.auth import AuthBase

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


class Message(NamedTuple):
    """One message of a conversation; `role` is system, user or assistant."""

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

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class _Key(AuthBase):
    """Sets the header or leaves it; given always, so that no `.netrc` fills in another's secret."""

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._written = re.compile("".join(map(_in_json, key or "")))

    def __call__(self, request: Any) -> Any:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def hide(self, text: str) -> str:
        """The text without the key, as it is or in JSON's escapes, which are undone later on."""
        return text if self._key is None else self._written.sub("[key]", text)


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
        self._key = _Key(api_key(settings))
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait

    def stop(self) -> None:
        """Make no further try, ever; what waits for one ends with `EndpointFailed`."""
        self._stopped.set()

    def ask(self, messages: Sequence[Message]) -> Reply:
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
                return self._once(body)
            except _Again as trouble:
                if attempt == tries - 1:
                    raise EndpointFailed(
                        f"{self._settings.host}: {trouble} ({tries} tries). Replies so far are "
                        "kept; the same command goes on once the endpoint answers."
                    ) from None
                # An endpoint that asks for no wait at all still gets one.
                self._sleep(max(trouble.wait or 0.0, backoff(attempt, str(body))))
        raise AssertionError("the loop returns or raises")

    def _once(self, body: dict[str, Any]) -> Reply:
        settings, host = self._settings, self._settings.host
        deadline = time.monotonic() + settings.timeout
        try:
            # A session of its own for each call: sessions are not safe to share by threads.
            with (
                requests.Session() as session,
                session.post(
                    self._url,
                    json=body,
                    auth=self._key,
                    timeout=settings.timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                raw = _read(response, deadline)
                status, headers = response.status_code, response.headers
        except requests.Timeout:
            raise _Again(f"no reply within {settings.timeout:g} s") from None
        except (
            requests.ConnectionError,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            if _untrusted(error):
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
        return self._of_status(status, headers, raw)

    def _of_status(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        host = self._settings.host
        if status == 200:
            reply = read_reply(raw)
            # Replies are kept on disk, where the key must not be, whoever put it into one.
            return dataclasses.replace(reply, text=self._key.hide(reply.text))
        said = _error_field(raw, "message")
        shown = f": {self._key.hide(_printable(said))[:300]}" if said else ""
        if status in _RETRIED or status >= 500:
            # Too many requests, or no money left: the message tells which.
            told = f"status {status}{shown if status == 429 else ''}"
            wait = retry_after(headers.get("Retry-After"), datetime.now(timezone.utc))
            if wait is not None and wait > _LONGEST_WAIT:
                raise EndpointFailed(
                    f"{host}: {told}, to be asked again in {wait:.0f} s. Run the same command "
                    "then; replies so far are kept."
                )
            raise _Again(told, wait)
        if status == 400 and _FILTERED.search(_error_field(raw, "code")):
            return Reply("", None, refused=True)
        found = " ".join(_error_field(raw, field) for field in ("code", "type", "message"))
        if status == 413 or (status == 400 and _TOO_LONG.search(found)):
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
                f"{host}: status {status}{shown}. Check base_url (it often ends in /v1) and "
                "judge_model."
            )
        raise QuestionRefused(
            f"{host}: status {status}{shown}. Check judge_model and the other settings."
        )


def request_body(settings: JudgeSettings, messages: Sequence[Message]) -> dict[str, Any]:
    """The JSON body of a call, which together with the address decides the reply."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [message._asdict() for message in messages],
        settings.max_tokens_field: settings.max_tokens,
    }
    temperature = settings.temperature
    if temperature is not None and temperature == int(temperature):
        temperature = int(temperature)  # as it was asked for, so that kept replies are found
    chosen = {"temperature": temperature, "seed": settings.seed}
    return body | {name: value for name, value in chosen.items() if value is not None}


def backoff(attempt: int, of: str) -> float:
    """Seconds before try `attempt` + 2: 1, 2, 4, ... up to 60, less up to half by a draw.

    The draw is seeded by the call `of` which it is, so that threads differ and runs do not.
    """
    return float(min(60.0, 2.0**attempt) * random.Random(f"{attempt} {of}").uniform(0.5, 1.0))


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or a date); None where it asks none."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        if until.tzinfo is None:
            until = until.replace(tzinfo=timezone.utc)
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def read_reply(raw: bytes) -> Reply:
    """The reply in a chat completion's JSON; `_Again` where it is none."""
    content = _json(raw)
    try:
        choice = content["choices"][0]
        message = choice["message"]
        text, said = message.get("content"), message.get("refusal")
        filtered = choice.get("finish_reason") == "content_filter"
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _Again("a reply without choices[0].message, so no chat completion") from None
    if text is not None and not isinstance(text, str):
        raise _Again("a reply whose choices[0].message.content is no text")
    refused = filtered or (isinstance(said, str) and bool(said.strip()))
    return Reply(text or "", _usage(content.get("usage")), refused)


def _in_json(character: str) -> str:
    """A pattern for every way in which a JSON string may hold a character."""
    slash = r"\\?" if character in '"/\\' else ""
    return rf"(?:{slash}{re.escape(character)}|\\u00(?i:{ord(character):02x}))"


def _untrusted(error: BaseException | None) -> bool:
    """Whether a certificate that was refused is at the root of an error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _usage(found: Any) -> tuple[int, int] | None:
    if not isinstance(found, dict):
        return None
    numbers = found.get("prompt_tokens"), found.get("completion_tokens")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 10**9:
            return None
    return numbers  # type: ignore[return-value]


def _read(response: Any, deadline: float) -> bytes:
    raw = bytearray()
    # Byte by byte: larger blocks would be waited for, and a slow drip could outlast any deadline.
    for block in response.iter_content(1):
        raw += block
        if len(raw) > _LARGEST_REPLY:
            raise _Again(f"a reply of more than {_LARGEST_REPLY >> 20} MiB")
        if time.monotonic() > deadline:
            raise requests.Timeout
    return bytes(raw)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise _Again("a reply that is not JSON") from None


def _error_field(raw: bytes, field: str) -> str:
    """Text under `error`, as OpenAI has it; else what other servers say at the top."""
    try:
        whole = _json(raw)
    except _Again:
        return ""
    if not isinstance(whole, dict):
        return ""
    error = whole.get("error")
    found = (error if isinstance(error, dict) else whole).get(field)
    if found is None and field == "message":
        found = error if isinstance(error, str) else whole.get("detail")
    return found if isinstance(found, str) else ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
