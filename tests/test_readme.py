"""The README's commands and code, run as they stand on tiny models, and every recipe."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from riskalign.cli import main
from riskalign.evaluation import read_results
from riskalign.models import save_model
from riskalign.pipeline import load_config
from riskalign.worlds import World, get_world
from tests import tiny
from tests.data.test_preferences import write
from tests.pipeline.test_judged import rows as judged_rows
from tests.scorers import toy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = ROOT / "src" / "riskalign" / "quickstart"
RECIPES = sorted([*(ROOT / "recipes").rglob("*.yaml"), *QUICKSTART.glob("*.yaml")])
QUICK = [
    "--helpful.max_steps=1",
    "--safe.max_steps=1",
    "--helpful.per_device_train_batch_size=2",
    "--safe.per_device_train_batch_size=2",
]
EVALUATION = [
    "--evaluation.prompts=2",
    "--evaluation.dial_prompts=2",
    "--evaluation.distance_prompts=2",
    "--evaluation.max_new_tokens=6",
    "--evaluation.n_boot=20",
]
SMALL = [
    "--world=tests.pipeline.conftest:Letters",
    "--sampling.prompts=4",
    "--helpful.sampling.prompts=4",
    "--sampling.max_new_tokens=6",
    *EVALUATION,
]
# What a recipe on judged answers is run with.
JUDGED = ["--data.path=judged.jsonl", "--scoring.encoder=encoder", *EVALUATION]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the README's shell blocks, comments and line ends taken out."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's examples name: a model, pairs, a recipe."""
    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "my-model")
    rows = "".join(json.dumps(row) + "\n" for row in tiny.make_pairs(4))
    write(tmp_path / "judged.jsonl", judged_rows())
    toy.make_encoder(tmp_path / "encoder")
    for name in ("pairs", "helpful", "safe"):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    (tmp_path / "recipe.yaml").write_text(
        "model: my-model\nworld: null\nevaluation: null\n"
        "helpful: {data: helpful.jsonl, max_steps: 1}\nsafe: {data: safe.jsonl, max_steps: 1}\n"
    )
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    assert not code, f"{arguments} ended with {code}"


def test_make_targets_exist() -> None:
    wanted = [words[1] for words in commands() if words[0] == "make"]
    assert wanted == ["quickstart", "test"]
    for target in wanted:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_shell_commands(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [words for words in commands() if words[0] == "riskalign"]
    assert found
    for words in found:
        small = JUDGED if any("saferlhf" in word for word in words) else SMALL
        extra = QUICK if "null" in words else [*QUICK, *small, "--model=my-model"]
        run(monkeypatch, [*words, *extra])
    assert (here / "runs" / "mine" / "model" / "model.safetensors").is_file()


def test_table_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = set(re.findall(r"^\| `riskalign (\w+)", README, flags=re.MULTILINE))
    run(monkeypatch, ["riskalign", "--help"])
    listed = set(re.findall(r"│ (\w+) ", capsys.readouterr().out)) - {"Options"}
    assert named <= listed
    assert named == {
        "quickstart", "align", "train", "sample", "evaluate", "report", "config", "verify", "plan",
        "compare", "presets", "merge", "score", "data", "judge", "certify", "export",
    }  # fmt: skip


def test_python_blocks(here: Path) -> None:
    for code in blocks("python"):
        # Two threads of a trainer's defaults would be slow; the code itself stays as printed.
        code = code.replace('output_dir="out"', 'output_dir="out", max_steps=1, report_to="none"')
        scope: dict[str, object] = {"__name__": "readme"}
        exec(compile(code, "README.md", "exec"), scope)
        if "Whisper" in scope:
            lines = [line for line in code.splitlines() if line.strip()]
            assert len(lines) < 20
            world = get_world(scope["Whisper"]())  # type: ignore[operator]
            assert isinstance(world, World)
            [prompt] = world.prompts("eval", 1, 0)
            assert world.reward(prompt, "Good Morning!") == 1
            assert world.cost(prompt, "It is Cedar.") == 1
            assert world.cost(prompt, "tulip") == 0


def test_quickstart_table_is_that_of_the_committed_results() -> None:
    """`docs/quickstart.json` is the results.json of the run that the README shows."""
    results = read_results(ROOT / "docs" / "quickstart.json")
    section = README.split("<!-- quickstart-table -->")[1]
    rows = {
        cells[0]: cells[1:]
        for line in section.splitlines()
        if line.startswith("| ") and (cells := [c.strip() for c in line.strip("| ").split("|")])
    }
    named = {
        "mean reward": "reward",
        "unsafe rate": "unsafe_rate",
        "CVaR 0.95 of cost": "cvar_0.95",
    }
    for label, metric in named.items():
        shown = [f"{results['models'][model][metric]['value']:.3f}" for model in rows["metric"]]
        assert [cell.split()[0] for cell in rows[label]] == shown


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_run(path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = JUDGED if load_config(path).data is not None else SMALL
    extra = ["--model=my-model", "--output_dir=run", *QUICK, *small]
    if load_config(path).sft is not None:
        extra += ["--world=tests.pipeline.test_sft:Showing", "--sft.max_steps=1"]
    if (template := load_config(path).chat_template) is not None:
        extra.append(f"--chat_template={ROOT / template}")
    run(monkeypatch, ["riskalign", "align", "-c", str(path), *extra])
    assert (here / "run" / "manifest.json").is_file()
