"""The examples run as they stand."""

import runpy
from pathlib import Path

import pytest

from riskalign.models import folders, save_model
from tests import tiny

EXAMPLES = Path(__file__).parent.parent / "examples"


def _run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("form", [[], ["--token_level"]])
def test_two_steps_on_one_page(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: list[str],
) -> None:
    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "model")
    world = "tests.pipeline.conftest:Letters"
    given = ["--model", str(tmp_path / "model"), "--world", world, "--quick", *form]
    _run(monkeypatch, "two_step_rsa.py", *given)
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "CVaR 0.95" in line]
    assert told == ["start", "helpful", *([] if form else ["predicted"]), "safe"]


def test_the_default_model_is_what_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "model")
    monkeypatch.setattr(folders, "default_folder", lambda origin: (tmp_path / "model", "abc"))
    _run(monkeypatch, "two_step_rsa.py", "--quick", "--world", "tests.pipeline.conftest:Letters")
    assert "safe         reward" in capsys.readouterr().out


def test_the_page_is_short() -> None:
    assert len((EXAMPLES / "two_step_rsa.py").read_text().splitlines()) <= 150
