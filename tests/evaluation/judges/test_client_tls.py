"""What goes wrong with https: what may pass is tried again, what will not is told."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from riskalign.errors import EndpointFailed, InputError
from riskalign.evaluation.judges import Turn
from tests.evaluation.judges.conftest import Serve
from tests.evaluation.judges.stub import Stub, says

ASKED = [Turn("user", "Which?")]


def secure(stub: Stub) -> Stub:
    """The same endpoint, which speaks no TLS, asked by https."""
    return Stub(stub.base_url.replace("http:", "https:"))


def test_a_handshake_that_breaks_off_is_tried_again(serve: Serve) -> None:
    waits: list[float] = []
    stub = secure(serve(lambda body, number: says("yes")))
    with pytest.raises(EndpointFailed, match="connection failed or broke off"):
        stub.client(waits, max_retries=2).ask(ASKED)
    assert len(waits) == 2


def test_a_certificate_that_is_not_trusted_is_told(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ssl.SSLCertVerificationError("self-signed certificate")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", refuse)
    waits: list[float] = []
    with pytest.raises(InputError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted"):
        secure(serve(lambda body, number: says("yes"))).client(waits).ask(ASKED)
    assert waits == []


def test_a_bundle_of_certificates_that_is_not_there_is_told(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match="REQUESTS_CA_BUNDLE"):
        secure(serve(lambda body, number: says("yes"))).client().ask(ASKED)


def test_a_proxy_that_cannot_be_is_told(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = serve(lambda body, number: says("yes"))
    monkeypatch.setenv("HTTP_PROXY", "http://a..b:80")
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="cannot be asked"):
        stub.client().ask(ASKED)
    assert stub.calls == []
