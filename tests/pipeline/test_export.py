"""What a job certified, written as a folder to serve, is what was tested, and says so."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console

import riskalign
from riskalign.cli import main
from riskalign.cli.certify import show_all
from riskalign.errors import InputError
from riskalign.evaluation import read_results
from riskalign.evaluation.wording import model_names
from riskalign.models import fingerprint, load_model, save_model
from riskalign.models.dial import dial
from riskalign.models.merge import merge
from riskalign.pipeline import align, export_certified, load_config
from riskalign.pipeline.card import plain
from riskalign.pipeline.judged import note_prompts, prompts_of
from tests import tiny

IDS = torch.tensor([[10, 11, 12, 13]])
Run = Callable[..., Path]


def certificate(models: dict[str, Any], w: float | None, baked: bool, bf16: bool) -> dict[str, Any]:
    """As a job writes it."""
    name = {0.0: "step1", 1.0: "final"}.get(w or 0.0, f"{'merge' if baked else 'dial'}-{w}")
    test = {"risk": "mean", "limit": 2.0, "category": None, "estimate": 1.0, "bound": 1.5}
    return {
        "schema": 1,
        "riskalign_version": "0.1.0",
        "certified": None if w is None else name,
        "certified_w": w,
        "limits": [{"risk": "mean", "limit": 2.0, "category": None}],
        "confidence": 0.95,
        "bound": "betting",
        "assumptions": ["prompts are independent draws"],
        "tests": [{"setting": name, **test, "passed": True, "prompts": 20, "answers": 40}],
        "prompts_needed": None,
        "models": models,
        "prompts": 20,
        "shared_with_evaluation": 0,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4},
        "bf16": bf16,
        "world": "letters",
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(w, baked=, bf16=)`: the folder of a job whose certificate says so."""

    def make(w: float | None, *, baked: bool = False, bf16: bool = False, **other: Any) -> Path:
        folder, models = tmp_path / "run", {}
        for seed, (name, place) in enumerate({"step1": "helpful/model", "final": "model"}.items()):
            save_model(tiny.make_model(seed=seed), tiny.make_tokenizer(), folder / place)
            print_ = fingerprint(load_model(folder / place).model)
            # Where it was made, from where the folder has been moved since.
            step = "helpful" if name == "step1" else "safe"
            models[name] = {"name": f"elsewhere/{step}/model", "fingerprint": print_}
        note_prompts(folder / "model", "none", prompts=["a"])
        path = folder / ("certificate-baked.json" if baked else "certificate.json")
        path.write_text(json.dumps(certificate(models, w, baked, bf16) | other))
        return folder

    return make


def tamper(folder: Path) -> None:
    """Put another model's weights in a folder, in a file of its own."""
    (folder / "model.safetensors").unlink()
    other = folder.parent / "other"
    save_model(tiny.make_model(seed=9), tiny.make_tokenizer(), other)
    shutil.copy(other / "model.safetensors", folder)
    shutil.rmtree(other)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("bf16", [False, True])
def test_the_dial_that_is_loaded_is_the_dial(bf16: bool, run: Run, tmp_path: Path) -> None:
    folder, out = run(0.3, bf16=bf16), tmp_path / "out"
    export_certified(folder, out)
    model, tokenizer = riskalign.load_dial(out)
    dtype = torch.bfloat16 if bf16 else torch.float32
    one, two = (load_model(folder / n).model.to(dtype=dtype) for n in ("helpful/model", "model"))  # type: ignore[call-arg]
    assert model.w == 0.3
    assert model.model_2.dtype is dtype
    assert logits(model).equal(logits(dial(one, two, 0.3)))
    options: dict[str, Any] = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 5}
    answers = [each.generate(IDS, **options) for each in (model, dial(one, two, 0.3))]
    assert answers[0].equal(answers[1])
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert riskalign.load_dial(out, dtype=torch.float64)[0].model_1.dtype is torch.float64
    # The same files under a second name; the certificate as it was.
    for place, source in (("model_1", "helpful/model"), ("model_2", "model")):
        name = "model.safetensors"
        assert (out / place / name).samefile(folder / source / name)
    own = (folder / "certificate.json").read_bytes()
    assert (out / "certificate.json").read_bytes() == own
    assert prompts_of(str(out / "model_2")) == prompts_of(str(folder / "model"))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_baked_model_is_the_merge(bf16: bool, run: Run, tmp_path: Path) -> None:
    folder, out = run(0.3, baked=True, bf16=bf16), tmp_path / "out"
    export_certified(folder, out, baked=True)
    dtype = torch.bfloat16 if bf16 else torch.float32
    one, two = (load_model(folder / n).model.to(dtype=dtype) for n in ("helpful/model", "model"))  # type: ignore[call-arg]
    made = load_model(out).model.to(dtype=dtype)  # type: ignore[call-arg]
    assert logits(made).equal(logits(merge(one, two, 0.3)))
    assert prompts_of(str(out)) == prompts_of(str(folder / "model"))
    card = (out / "README.md").read_text()
    assert fingerprint(load_model(out).model) in card
    assert "average of the two steps" in card
    assert not (out / "dial.json").exists()


@pytest.mark.parametrize(("w", "baked"), [(1.0, False), (0.0, False), (1.0, True)])
def test_an_end_is_the_model_itself(w: float, baked: bool, run: Run, tmp_path: Path) -> None:
    folder, out = run(w, baked=baked), tmp_path / "out"
    out.mkdir()  # an empty one may be
    export_certified(folder, out, baked=baked)
    source = folder / ("model" if w else "helpful/model")
    for path in source.iterdir():
        assert path.samefile(out / path.name)
    assert {path.name for path in out.iterdir()} == {path.name for path in source.iterdir()} | {
        "README.md",
        "certificate.json",
    }
    with pytest.raises(InputError, match="is a single model"):
        riskalign.load_dial(out)


def test_a_model_that_is_no_plain_folder_is_written(run: Run, tmp_path: Path) -> None:
    """A start model may be one end, asked with the job's own template."""
    folder = run(0.0)
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    content = json.loads((folder / "certificate.json").read_text())
    content["models"]["step1"]["chat_template"] = template
    (folder / "certificate.json").write_text(json.dumps(content))
    export_certified(folder, tmp_path / "out")
    made = load_model(tmp_path / "out")
    assert made.tokenizer.chat_template == template
    assert fingerprint(made.model) == content["models"]["step1"]["fingerprint"]


@pytest.mark.parametrize("w", [0.5, 1.0])
def test_the_card_loads_what_it_describes(
    w: float, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_certified(run(w), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "keeps mean cost ≤ 2.00, with 95 % confidence" in card.replace("\xa0", " ")
    assert "| mean cost ≤ 2.00 | 1.00 | 1.50 | 20 | 40 |" in card
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    exec(compile(code.replace("FOLDER", str(tmp_path / "out")), "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")


def test_the_card_has_no_marks_of_others(run: Run, tmp_path: Path) -> None:
    folder = run(1.0, world="x\n# h <img src=a> [l](u) `c` \u202e|", note="*n*")
    export_certified(folder, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\n# h" not in card
    assert "<img" not in card
    assert "\u202e" not in card
    assert r"\[l\](u) \`c\`" in card
    assert r"\*n\*" in card
    assert plain("a\\_b&") == r"a\\\_b&amp;"


@pytest.mark.parametrize(("w", "baked"), [(1.0, False), (0.5, False), (0.5, True)])
def test_weights_that_changed_are_refused(w: float, baked: bool, run: Run, tmp_path: Path) -> None:
    folder = run(w, baked=baked)
    tamper(folder / "model")
    with pytest.raises(InputError, match="not those that the certificate is of"):
        export_certified(folder, tmp_path / "out", baked=baked)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_dial_whose_files_changed_is_refused(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_certified(run(0.5), out)
    good = json.loads((out / "dial.json").read_text())
    for wrong, words in (
        ({"w": "0.5"}, "w is 0.5, not a number"),
        ({"w": True}, "w is True"),
        ({"w": 1e9}, "is not in"),
        ({"fingerprints": ["x"]}, "fingerprints are not two"),
        ({"dtype": "int8"}, "dtype is not known"),
        ({"dtype": ["float32"]}, "dtype is not known"),
    ):
        (out / "dial.json").write_text(json.dumps(good | wrong))
        with pytest.raises(InputError, match=words):
            riskalign.load_dial(out)
    (out / "dial.json").write_text(json.dumps(good))
    tamper(out / "model_2")
    with pytest.raises(InputError, match=r"model_2.*not those that were certified"):
        riskalign.load_dial(out)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run(0.5), tmp_path / "out"
    assert command(monkeypatch, folder, "--baked", "--out", out) == 2
    assert "a job with budget.baked: true" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert command(monkeypatch, folder, "--out", out) == 0
    said = capsys.readouterr().out
    assert "Certified: dial-0.5" in said
    assert str(out) in said
    before = sorted(out.rglob("*"))
    assert command(monkeypatch, folder, "--out", out) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == before
    assert command(monkeypatch, run(None), "--out", tmp_path / "new") == 2
    assert "certifies nothing" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_certificate_that_is_missing_is_told_by_the_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of the dial or of the averages."""
    good = certificate({}, 0.5, False, False) | {"note": "each alone"}
    bad = certificate({}, None, True, False)
    bad["tests"][0] |= {"passed": False, "bound": 3.0}
    console = Console()
    show_all((good, None), console)
    assert "each alone" in capsys.readouterr().out
    with pytest.raises(typer.Exit) as end:
        show_all((good, bad), console)
    assert end.value.exit_code == 3
    assert "Not certified" in capsys.readouterr().out


def test_averages_need_two_kinds_of_steps() -> None:
    budget = {"risk": "unsafe_rate", "limit": 0.5, "baked": True}
    with pytest.raises(InputError, match=r"budget\.baked: needs steps of two kinds"):
        load_config({"order": ["safe"], "budget": budget})


def test_a_job_bakes(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    points = {"settings": [1.0, 0.5], "baked": True}
    budget = {"risk": "unsafe_rate", "limit": 1.0, "prompts": 8, "answers_per_prompt": 1}
    evaluation = job()["evaluation"] | {"dial": []}
    made = align(job(budget=budget | points, evaluation=evaluation, bf16=False))
    assert made.certificate is not None
    assert made.baked is not None
    assert made.certificate["certified"] == "dial-0.5"
    assert made.baked["certified"] == "merge-0.5"
    assert made.baked["certified_w"] == 0.5
    for each, name in ((made.certificate, ""), (made.baked, "-baked")):
        assert "not both together" in each["note"]
        written = json.loads((tmp_path / "run" / f"certificate{name}.json").read_text())
        assert written.pop("created")
        assert written == each
    # Both ends are tested once for both: they are the same models.
    calibration = {path.stem for path in (tmp_path / "run" / "calibration").iterdir()}
    assert calibration == {"final", "dial-0.5", "merge-0.5"}
    assert made.results is not None
    results = read_results(made.results)
    assert {"certified", "baked"} <= results["models"].keys()
    assert model_names(results)["baked"] == "Baked, certified"
    out = tmp_path / "out"
    export_certified(tmp_path / "run", out, baked=True)
    one, two = (load_model(tmp_path / "run" / n / "model").model for n in ("helpful", "safe"))
    assert logits(load_model(out).model).equal(logits(merge(one, two, 0.5)))
    again = align(job(budget=budget | points, evaluation=evaluation, bf16=False))
    assert again.baked == made.baked
    alone = align(job(budget=budget | points | {"baked": False}, evaluation=evaluation, bf16=False))
    assert alone.baked is None
    assert alone.certificate is not None
    assert "note" not in alone.certificate
