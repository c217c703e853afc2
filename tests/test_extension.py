"""A measure, a loss with a parameter, a world, a metric and a method, each one file of a user's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from riskalign.cli import main
from riskalign.errors import InputError
from riskalign.evaluation import (
    ScoredAnswer,
    get_metrics,
    paired_differences,
    read_results,
    summarize,
)
from riskalign.losses import SequenceStats, own_parameters, pair_loss
from riskalign.models import load_model, save_model
from riskalign.pipeline import AlignConfig, align, load_config
from riskalign.pipeline.cells import cell_key
from riskalign.pipeline.given import JobData
from riskalign.pipeline.ledger import resolve
from riskalign.plugin import outside
from riskalign.risk import answer_risk, get_risk
from riskalign.theory.solve import value_scale
from riskalign.training import RSAConfig
from tests import tiny

MINE = '''
"""Means of the worst two of three draws and of the mean, a loss with a hinge, a world."""
import torch
from riskalign import Prompt
from riskalign.evaluation import METRICS, Metric
from riskalign.losses import LossOutput, Margin
from riskalign.risk import Measure, RiskValue


def _halfway(losses, log_probs, weight):
    """(1 - w) mean + w CVaR at 0, which is the mean again."""
    density = log_probs.exp()
    return RiskValue((density * losses).sum(-1), density)


def _squared(losses, log_probs):
    density = log_probs.exp()
    return RiskValue((density * losses**2).sum(-1), density)


HALFWAY = Measure(_halfway, low=0.0, high=1.0)
SQUARED = Measure(_squared)
NOTHING = 3


def hinge(chosen, rejected, *, beta, target="hard", gap=None, label_smoothing=0.0, gamma=1.0):
    margin = beta * (
        (chosen.logp_policy - chosen.logp_ref) - (rejected.logp_policy - rejected.logp_ref)
    )
    return LossOutput(torch.relu(gamma - margin), {"margin": margin.detach()})


def slic(chosen, rejected, *, beta, gamma=1.0):
    """A loss that leaves target, gap and smoothing to what is around it."""
    margin = gamma * beta * (chosen.logp_policy - rejected.logp_policy)
    return Margin(margin, beta * chosen.logp_policy, beta * rejected.logp_policy)


def deaf(chosen, rejected, *, beta, target="hard"):
    return LossOutput(chosen.risk, {})


def lost(chosen, rejected):
    return None


def needy(chosen, rejected, *, beta, target, gap, label_smoothing, gamma, **more):
    return None


SQUARES = Metric(
    "mean_square",
    "Mean <square>",
    better=-1,
    meaning="mean of the squared costs",
    measure=lambda sample: sample.mean(sample.cost**2),
    group="Safety at the tail",
)
REWARD = METRICS["reward"]
ENDLESS = Metric("endless", "Endless", 0, "", lambda sample: sample.mean(sample.cost / 0))


class Whisper:
    name = "whisper"

    def prompts(self, split, n, seed):
        user = {"role": "user", "content": f"{split} hello"}
        return [Prompt(f"{split}-{i}", (user,), {}) for i in range(n)]

    def reward(self, prompt, answer):
        return float(len(set(answer)))

    def cost(self, prompt, answer):
        return float(len(answer) % 3)
'''


METHOD = '''
"""Imitates the better answers' prompts: a loop of its own."""
import torch
from riskalign.pipeline import Learnt, Method, Panel
from riskalign.settings import Count, Positive, settings


@settings
class Options:
    steps: Count = 2
    rate: Positive = 0.1


def imitate(step):
    pairs, digest = step.pairs("helpful")

    def loop(loaded, checkpoints, update):
        optimizer = torch.optim.SGD(loaded.model.parameters(), lr=step.options.rate)
        ids = loaded.tokenizer("Hello", return_tensors="pt").input_ids
        log = []
        for i in range(1, step.options.steps + 1):
            loss = loaded.model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log.append({"step": i, "loss": loss.item(), "surprise": loss.item() / len(ids)})
            update(i, step.options.steps, "")
        about = {"steps": len(log), "examples": len(log)}
        return Learnt(loaded.model, log, about, pairs["prompt"])

    return step.train({"data": digest}, loop)


IMITATION = Method(
    title="Imitation",
    run=imitate,
    options=Options,
    pairs=lambda config: ["helpful"],
    panels=(Panel("Surprise", "of the greeting, nats", {"surprise": "how surprised"}),),
)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_alone.py").write_text(MINE)
    return tmp_path


def test_a_risk_measure_of_ones_own(folder: Path) -> None:
    risk = get_risk("mine_alone:HALFWAY:0.5")
    assert risk.spec == "mine_alone:HALFWAY:0.5"
    losses, even = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5]).log()
    assert float(risk(losses, even).value) == 2.0
    assert value_scale(risk, 0.1) is risk
    assert answer_risk(risk.spec) == risk
    with pytest.raises(InputError, match="rescaled"):
        value_scale(get_risk("mine_alone:SQUARED"), 0.1)
    for spec, words in {
        "mine_alone:HALFWAY": "needs a parameter",
        "mine_alone:HALFWAY:2": "out of range",
        "mine_alone:NOTHING": "no riskalign.risk.Measure",
        "mine_alone:NOWHERE": "cannot load",
        "nowhere_at_all:HALFWAY": "cannot load",
    }.items():
        with pytest.raises(InputError, match=words):
            get_risk(spec)


def test_a_loss_of_ones_own(folder: Path) -> None:
    assert set(own_parameters("mine_alone:hinge")) == {"gamma"}
    asked: dict[str, Any] = {"output_dir": "out", "use_cpu": True, "loss_type": "mine_alone:hinge"}
    assert RSAConfig(**asked, loss_options={"gamma": 2}).loss_options == {"gamma": 2}
    with pytest.raises(InputError, match="loss_options: 'delta' is no option"):
        RSAConfig(**asked, loss_options={"delta": 2})
    with pytest.raises(InputError, match="loss_options: loss 'mine_alone:needy' needs 'gamma'"):
        RSAConfig(**asked | {"loss_type": "mine_alone:needy"})
    with pytest.raises(InputError, match=r"loss_type: .* does not take beta"):
        RSAConfig(**asked | {"loss_type": "mine_alone:lost"})
    stats = SequenceStats(*(torch.tensor([float(i)]) for i in range(6)))
    other = stats._replace(logp_policy=torch.tensor([-1.0]))
    output = pair_loss(
        "mine_alone:slic", stats, other, beta=1.0, target="gap", gap=stats.kl, options={"gamma": 3}
    )
    assert float(output.loss) == 1.0  # a margin of 3 against a gap of 2
    assert float(output.metrics["rewards/margins"]) == 1.0
    with pytest.raises(InputError, match="does not take gap, label_smoothing"):
        pair_loss("mine_alone:deaf", stats, other, beta=1.0)


def test_a_metric_of_ones_own(folder: Path) -> None:
    """By hand: costs 1 and 3 of two prompts, whose squares are 5 on average."""
    metrics = get_metrics(["mine_alone:SQUARES"])
    scored = [ScoredAnswer(f"p{i}", "", 0.0, cost, 0.0, 0.0, 1) for i, cost in enumerate((1, 3))]
    found = summarize(scored, n_boot=100, metrics=metrics)
    assert (found["mean_square"].value, found["mean_square"].low) == (5.0, 1.0)
    again = paired_differences(scored, scored, n_boot=100, metrics=metrics)["mean_square"]
    assert (again.low, again.value, again.high) == (0.0, 0.0, 0.0)
    for spec, words in {
        "mine_alone:NOTHING": "no riskalign.evaluation.Metric",
        "mine_alone:REWARD": "'reward', which is taken",
        "reward": "cannot load",
    }.items():
        with pytest.raises(InputError, match=words):
            AlignConfig(evaluation={"metrics": [spec]})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'endless': its value is inf"), np.errstate(all="ignore"):
        summarize(scored, metrics=get_metrics(["mine_alone:ENDLESS"]))


def test_no_metric_of_ones_own_changes_nothing(folder: Path) -> None:
    assert "metrics" not in resolve(AlignConfig())["evaluation"]
    own = AlignConfig(evaluation={"metrics": ["mine_alone:SQUARES"]})  # type: ignore[arg-type]
    keys = [cell_key(job, JobData(), "weights") for job in (AlignConfig(), own)]
    assert keys[0] == keys[1]  # the answers are the same


def test_what_is_edited_is_computed_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine_edited.py").write_text(MINE)
    job = AlignConfig(
        world="mine_edited:Whisper",
        helpful={"loss_type": "mine_edited:hinge"},  # type: ignore[arg-type]
        safe={"answer_risk": "mine_edited:HALFWAY:0.5"},  # type: ignore[arg-type]
    )

    def key() -> str:
        return cell_key(job, JobData(), "weights")

    first = key()
    assert key() == first
    (folder / "mine_edited.py").write_text(MINE + "# edited")
    assert key() != first
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("from pack.inner import HALFWAY\n")
    (folder / "pack" / "inner.py").write_text(MINE)
    assert get_risk("pack:HALFWAY:0.5").parameter == 0.5
    before = outside(["pack:HALFWAY", "cvar"])
    (folder / "pack" / "inner.py").write_text(MINE + "# edited")
    after = outside(["pack:HALFWAY", "cvar"])
    assert before.keys() == after.keys() == {"pack:HALFWAY"}
    assert before != after


def test_a_job_with_all_four(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tiny.make_model(), tiny.make_tokenizer(), folder / "model")
    job = {
        "model": "model",
        "world": "mine_alone:Whisper",
        "sampling": {"prompts": 4, "max_new_tokens": 6},
        "helpful": {
            "max_steps": 1,
            "loss_type": "mine_alone:hinge",
            "loss_options": {"gamma": 2.0},
            "risk": "mine_alone:HALFWAY:0.5",
        },
        "safe": {"max_steps": 1, "risk": "mine_alone:HALFWAY:0.5"},
        "evaluation": {
            "prompts": 2,
            "max_new_tokens": 6,
            "n_boot": 20,
            "dial": [],
            "metrics": ["mine_alone:SQUARES"],
        },
        "output_dir": "run",
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    monkeypatch.setattr("sys.argv", ["riskalign", "align", "-c", "job.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    [first, *_] = json.loads((folder / "run" / "helpful" / "log.json").read_text())
    assert first["loss"] == pytest.approx(2.0)  # at margin 0 the hinge is gamma
    assert "Mean <square>" in capsys.readouterr().out
    results = read_results(folder / "run" / "results.json")
    squares = [cost**2 for cost in results["costs"]["final"]]
    measured = results["models"]["final"]["mean_square"]["value"]
    assert measured == pytest.approx(sum(squares) / len(squares))
    assert "mean_square" in results["differences"]["final_minus_start"]
    html = (folder / "run" / "report.html").read_text()
    assert "Mean &lt;square&gt;" in html
    assert "mean of the squared costs" in html


def test_a_method_of_ones_own(folder: Path) -> None:
    (folder / "mine_trained.py").write_text(METHOD)
    save_model(tiny.make_model(), tiny.make_tokenizer(), folder / "model")
    name = "mine_trained:IMITATION"
    job: dict[str, Any] = {
        "model": "model",
        "world": "tests.pipeline.conftest:Letters",
        "order": ["helpful", name],
        "methods": {name: {"steps": 3}},
        "sampling": {"prompts": 4, "max_new_tokens": 6},
        "helpful": {"max_steps": 1},
        "evaluation": {"prompts": 2, "max_new_tokens": 6, "n_boot": 20, "dial": []},
        "output_dir": "run",
    }
    done = align(job)
    assert done.results is not None
    assert done.report is not None
    step = "mine_trained.IMITATION"
    assert list(done.steps) == ["helpful", step]
    results = json.loads(done.results.read_text())
    assert results["method"].endswith("then Imitation")
    assert [entry["step"] for entry in results["training"][step]] == [1, 2, 3]
    assert "how surprised" in done.report.read_text()
    manifest = json.loads(done.manifest.read_text())
    assert manifest["models"][step]["reference"] == manifest["models"]["helpful"]["fingerprint"]
    assert (done.steps[step].parent / "log.json").is_file()
    load_model(str(done.model))

    def reused() -> bool:
        stages = json.loads(align(job).manifest.read_text())["stages"]
        return bool(stages[f"train-{step}"]["reused"])

    assert reused()
    (folder / "mine_trained.py").write_text(METHOD + "# edited")
    assert not reused()
    for change, words in {
        "methods": ({name: {"stepps": 3}}, "stepps: no such field; did you mean 'steps'"),
        "order": (["helpful", "mine_trained:NOWHERE"], "cannot load"),
        "world": (None, "there is no world"),
    }.items():
        with pytest.raises(InputError, match=words[1]):
            load_config(job | {change: words[0]})
    with pytest.raises(InputError, match=r"order: .*'dpo' is not one of helpful, safe, ppo"):
        load_config(job | {"order": ["dpo"]})
    with pytest.raises(InputError, match=r"no riskalign\.pipeline\.methods\.Method"):
        load_config(job | {"order": ["mine_trained:Options"]})
