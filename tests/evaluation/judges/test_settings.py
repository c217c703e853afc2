"""Settings are refused when made, and a key that was given by mistake is not shown."""

from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.evaluation.judges import JudgeSettings
from riskalign.evaluation.judges.settings import api_key

URL = "https://judge.example/v1"
GIVEN: dict[str, Any] = {"base_url": URL, "model": "m"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "judge.example/v1"}, "base_url is no address"),
        ({"base_url": "ftp://judge.example"}, "base_url is no address"),
        ({"base_url": "http://judge.example:port/v1"}, "base_url is no address"),
        ({"base_url": "https://a..b/v1"}, "base_url is no address"),
        ({"base_url": f"https://{'a' * 70}.example/v1"}, "base_url is no address"),
        ({"base_url": "http://judge.example/v1?key=k"}, "base_url holds a user, a query"),
        ({"base_url": URL + "/chat/completions"}, "ends in /chat/completions"),
        ({"model": " "}, "model"),
        ({"max_tokens": 0}, "max_tokens: 0"),
        ({"max_tokens_field": "tokens"}, "max_tokens_field: .tokens. should be"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"price_in": -1.0}, "price_in"),
        ({"max_cost": 1.0}, "max_cost: needs price_in"),
        ({"max_cost": 0.0, "price_in": 1.0}, "max_cost"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        JudgeSettings(**GIVEN | options)


@pytest.mark.parametrize("field", ["api_key_env", "base_url"])
def test_a_key_in_the_wrong_place_is_not_shown(field: str) -> None:
    given: dict[str, Any] = {
        "api_key_env": "sk-secret-tulip",
        "base_url": "https://user:sk-secret-tulip@host/v1",
    }
    with pytest.raises(InputError) as caught:
        JudgeSettings(**GIVEN | {field: given[field]})
    assert "tulip" not in str(caught.value)


def test_the_key_comes_from_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = JudgeSettings(URL, "m", api_key_env="RISKALIGN_TEST_KEY")
    monkeypatch.setenv("RISKALIGN_TEST_KEY", " sk-tulip\n")
    assert api_key(settings) == "sk-tulip"
    assert "tulip" not in repr(settings)
    assert api_key(JudgeSettings(URL, "m")) is None
    for bad in ("", "sk-tulip two", "sk-tülip", "sk\ntulip"):
        monkeypatch.setenv("RISKALIGN_TEST_KEY", bad)
        with pytest.raises(InputError) as caught:
            api_key(settings)
        assert "lip" not in str(caught.value)
    # A key that reads like a variable's name, given for one.
    with pytest.raises(InputError) as caught:
        api_key(JudgeSettings(URL, "m", api_key_env="gsk_tulip"))
    assert "tulip" not in str(caught.value)


def test_cost_and_host() -> None:
    settings = JudgeSettings("http://127.0.0.1:80/v1", "m", price_in=2.0, price_out=8.0)
    assert settings.cost(500_000, 250_000) == 3.0  # 1 and 2
    assert settings.host == "127.0.0.1:80"
