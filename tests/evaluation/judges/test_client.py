"""The client against an endpoint that misbehaves in every way that endpoints do."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import datetime, timezone

import pytest

from riskalign.errors import EndpointFailed, InputError
from riskalign.evaluation.judges import JudgeSettings, Turn
from riskalign.evaluation.judges.client import backoff, request_body, retry_after
from tests.evaluation.judges.conftest import Serve
from tests.evaluation.judges.stub import Does, Stub, says, verdict

ASKED = [Turn("user", "Which?")]


def first(does: Does, then: Does | None = None) -> object:
    """Do this to the first call and then answer."""
    return lambda body, number: does if number == 0 else then or says("yes")


def test_a_call_says_what_the_settings_say(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = serve(lambda body, number: says("yes", (7, 3)))
    monkeypatch.setenv("RISKALIGN_TEST_KEY", "sk-tulip")
    client = stub.client(max_tokens=33, seed=5, api_key_env="RISKALIGN_TEST_KEY")
    reply = client.ask(ASKED)
    assert (reply.text, reply.usage, reply.refused) == ("yes", (7, 3), False)
    assert stub.paths == ["/v1/chat/completions"]
    assert stub.calls == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Which?"}],
            "temperature": 0,
            "max_tokens": 33,
            "seed": 5,
        }
    ]
    assert stub.headers[0]["Authorization"] == "Bearer sk-tulip"


def test_a_judge_that_refuses_the_usual_fields_can_be_asked(serve: Serve) -> None:
    stub = serve(lambda body, number: says("yes"))
    stub.client(max_tokens=33, max_tokens_field="max_completion_tokens", temperature=None).ask(
        ASKED
    )
    assert stub.calls[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_completion_tokens": 33,
    }


def test_without_a_key_no_secret_of_a_netrc_is_sent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w", encoding="ascii") as stream:
        stream.write("machine 127.0.0.1 login me password tulip\n")
    monkeypatch.setenv("NETRC", netrc)
    stub = serve(lambda body, number: says("yes"))
    stub.client().ask(ASKED)
    assert "Authorization" not in stub.headers[0]


@pytest.mark.parametrize(
    "trouble",
    [
        Does(429),
        Does(408),
        Does(500),
        Does(503, b"<html>busy</html>"),
        Does(hang_up=True),
        Does(body=b"{", headers={"X": "half"}),
        Does(body=b"[" * 100_000),
        Does(body=b"[]"),
        Does(body=b'{"choices": []}'),
        Does(body=b'{"choices": [{"text": "old form"}]}'),
        Does(body=b'{"choices": [{"message": "no object"}]}'),
        Does(body=b'{"choices": [{"message": {"content": ["part"]}}]}'),
        Does(body=b"\xff\xfe"),
        Does(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
    ],
    ids=lambda does: f"{does.status}-{does.body[:24]!r}-{does.hang_up}",
)
def test_what_may_pass_is_tried_again(serve: Serve, trouble: Does) -> None:
    stub = serve(first(trouble))  # type: ignore[arg-type]
    waits: list[float] = []
    assert stub.client(waits).ask(ASKED).text == "yes"
    assert len(stub.calls) == 2
    assert len(waits) == 1
    assert 0.5 <= waits[0] <= 1.0


@pytest.mark.parametrize(
    "never",
    [Does(wait=600.0), Does(body=b" " * 10_000, drip=0.05)],
    ids=["no reply", "one that drips"],
)
def test_a_call_that_does_not_end_is_ended_and_tried_again(serve: Serve, never: Does) -> None:
    """The endpoint is never done, so that no machine is too slow for the time-out."""
    waits: list[float] = []
    stub = serve(lambda body, number: never)
    with pytest.raises(EndpointFailed, match=r"no reply within 0\.2 s \(2 tries"):
        stub.client(waits, timeout=0.2, max_retries=1).ask(ASKED)
    assert len(waits) == 1


def test_a_reply_without_end_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riskalign.evaluation.judges.client._LARGEST_REPLY", 1000)
    stub = serve(lambda body, number: says("x" * 2000))
    with pytest.raises(EndpointFailed, match="a reply of more than"):
        stub.client(max_retries=0).ask(ASKED)


@pytest.mark.parametrize("header", ["Retry-After", "retry-after"])
def test_retry_after_is_kept(serve: Serve, header: str) -> None:
    waits: list[float] = []
    stub = serve(first(Does(429, headers={header: "7"})))  # type: ignore[arg-type]
    assert stub.client(waits).ask(ASKED).text == "yes"
    assert waits == [7.0]
    stub = serve(lambda body, number: Does(429, headers={header: "3600"}))
    with pytest.raises(EndpointFailed, match="asked again in 3600 s"):
        stub.client(waits).ask(ASKED)
    assert len(stub.calls) == 1


@pytest.mark.parametrize("asked", ["0", "Wed, 25 Nov 2020 12:00:00 GMT"])
def test_retry_after_shortens_no_wait(serve: Serve, asked: str) -> None:
    waits: list[float] = []
    stub = serve(lambda body, number: Does(429, headers={"Retry-After": asked}))
    with pytest.raises(EndpointFailed):
        stub.client(waits, max_retries=3).ask(ASKED)
    assert all(least <= wait <= 2 * least for wait, least in zip(waits, (0.5, 1, 2), strict=True))


def test_retry_after_in_its_two_forms() -> None:
    now = datetime(2026, 11, 25, 12, 0, 0, tzinfo=timezone.utc)
    assert retry_after("30", now) == 30
    assert retry_after("1.5", now) == 1.5
    assert retry_after("Wed, 25 Nov 2026 12:00:20 GMT", now) == 20
    assert retry_after("Wed, 25 Nov 2026 11:00:00 GMT", now) == 0
    for nothing in (None, "soon", "", "-3", "9" * 400, "Wed, 99 Nov 2026 12:00:20 GMT"):
        assert retry_after(nothing, now) is None


def test_backoff_doubles_up_to_a_minute_and_is_seeded() -> None:
    for attempt, most in ((0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (40, 60)):
        assert most / 2 <= backoff(attempt, "x") <= most
    assert backoff(3, "x") == backoff(3, "x") != backoff(3, "y")


def test_tries_end(serve: Serve) -> None:
    waits: list[float] = []
    stub = serve(lambda body, number: Does(502))
    with pytest.raises(EndpointFailed, match=r"127.0.0.1:\d+: status 502 \(3 tries\)"):
        stub.client(waits, max_retries=2).ask(ASKED)
    assert len(stub.calls) == 3
    assert len(waits) == 2


def test_nobody_listens() -> None:
    stub = Stub("http://127.0.0.1:9/v1")
    with pytest.raises(EndpointFailed, match="connection failed"):
        stub.client(max_retries=1).ask(ASKED)


def test_a_client_that_was_stopped_asks_no_more(serve: Serve) -> None:
    stub = serve(lambda body, number: says("yes"))
    client = stub.client()
    client.stop()
    with pytest.raises(EndpointFailed, match="stopped"):
        client.ask(ASKED)
    assert stub.calls == []


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (Does(400, b'{"error": {"message": "no such parameter"}}'), "400: no such parameter"),
        (Does(401), "Check the key"),
        (Does(403), "Check the key"),
        (Does(404), "Check base_url"),
        (Does(404, b'{"error": "no object"}'), "404: no object. Check base_url"),
        (Does(400, b'{"detail": "no such field"}'), "400: no such field"),
        (Does(400, b'{"object": "error", "message": "too odd", "code": 400}'), "400: too odd"),
        (Does(400, b'["no", "object"]'), "status 400. Check"),
        (Does(400, b'{"error": {"message": 7}, "message": 8}'), "status 400. Check"),
        (Does(422, b"\x00\x1b[31m"), "status 422"),
        (Does(301, headers={"Location": "http://127.0.0.1:9/"}), "redirects"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(serve: Serve, does: Does, words: str) -> None:
    stub = serve(lambda body, number: does)
    with pytest.raises(InputError, match=words):
        stub.client().ask(ASKED)
    assert len(stub.calls) == 1


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "3600"}])
def test_what_a_429_says_is_told(serve: Serve, headers: dict[str, str]) -> None:
    body = b'{"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}}'
    stub = serve(lambda _, number: Does(429, body, headers))
    with pytest.raises(EndpointFailed, match=r"status 429: You exceeded your quota\."):
        stub.client(max_retries=1).ask(ASKED)


def test_terminal_codes_in_an_error_are_taken_out(serve: Serve) -> None:
    body = json.dumps({"error": {"message": "\x1b[31mred\x07"}}).encode()
    stub = serve(lambda _, number: Does(400, body))
    with pytest.raises(InputError) as caught:
        stub.client().ask(ASKED)
    assert "\x1b" not in str(caught.value)
    assert "red" in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_the_key_is_in_no_message_and_no_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "".join(("sk-", "tu", "lip"))  # whole in no line that a traceback could show
    monkeypatch.setenv("RISKALIGN_TEST_KEY", key)
    body = json.dumps({"error": {"message": f"wrong key {key}", "code": key}}).encode()
    stub = serve(lambda _, number: Does(status, body))
    with pytest.raises((InputError, EndpointFailed)) as caught:
        stub.client(max_retries=1, api_key_env="RISKALIGN_TEST_KEY").ask(ASKED)
    assert stub.headers[0]["Authorization"] == f"Bearer {key}"
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert key[3:] not in told
    assert ("[key]" in told) == (status in (400, 404, 429))


def test_refusals_of_the_endpoint_itself(serve: Serve) -> None:
    body = b'{"error": {"message": "no", "code": "content_filter"}}'
    assert serve(lambda _, number: Does(400, body)).client().ask(ASKED).refused
    assert serve(lambda _, number: says(None, refusal="I will not.")).client().ask(ASKED).refused
    stopped = b'{"choices": [{"message": {"content": "{"}, "finish_reason": "content_filter"}]}'
    assert serve(lambda _, number: Does(body=stopped)).client().ask(ASKED).refused
    assert not serve(lambda _, number: says("x", refusal="")).client().ask(ASKED).refused


@pytest.mark.parametrize(
    "usage", [None, (-1, 2), (True, 1), (1.5, 1), ("9", 1), (10**12, 1), (None, 1)]
)
def test_usage_that_cannot_be_is_no_usage(serve: Serve, usage: object) -> None:
    assert serve(lambda _, number: verdict("A", usage)).client().ask(ASKED).usage is None


def test_no_content_is_an_empty_text(serve: Serve) -> None:
    assert serve(lambda _, number: says(None)).client().ask(ASKED).text == ""


def test_a_whole_temperature_is_asked_for_as_such() -> None:
    """Replies are kept by what was asked: 0 and 0.0 are one question."""
    for temperature in (0, 0.0):
        settings = JudgeSettings("http://127.0.0.1:1/v1", "m", temperature=temperature)
        assert json.dumps(request_body(settings, [])["temperature"]) == "0"
    half = JudgeSettings("http://127.0.0.1:1/v1", "m", temperature=0.5)
    assert request_body(half, [])["temperature"] == 0.5
