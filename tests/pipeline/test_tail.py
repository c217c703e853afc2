"""The risk of whole answers in a step: thresholds, limits, rounds, and what is said of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from riskalign import align
from riskalign.data import load_groups, load_pairs
from riskalign.errors import InputError
from riskalign.files.atomic import write_json_lines
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.settings import StepConfig
from riskalign.pipeline.tail import TailAim, charged_rows, plan_tail, tail_words
from riskalign.risk import strength_for
from riskalign.worlds.pairs import Scored
from tests import tiny
from tests.pipeline.conftest import Letters

AIM = TailAim(risk="cvar:0.9", limit=None, beta=0.5, gap_scale=1.0)
COSTS = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).exp().tolist()


def test_two_answers_by_hand() -> None:
    """Strength log 3 turns the weights of costs 0 and 1 into 3/4 and 1/4 under the mean."""
    aim = TailAim(risk="mean", limit=None, beta=1 / math.log(3), gap_scale=1.0)
    plan = plan_tail([[0.0, 1.0]], aim, [[0.0, 4.0]])
    assert plan.summary["sampled"] == {"cost": 0.5, "risk": 0.5, "reward": 2.0}
    assert plan.summary["predicted"]["reward"] == pytest.approx(1.0)
    assert plan.summary["predicted"]["risk"] == pytest.approx(0.25)
    assert plan.charged([0.0, 1.0, 3.0]) == pytest.approx([0.0, -1.0, -3.0])
    assert plan.score(Scored("a", 0.7, 3.0)) == pytest.approx((-3.0, 0.7))


def test_rounds_solve_for_the_policy_at_their_end() -> None:
    """Two rounds left at twice the temperature arrive where one round does."""
    one = plan_tail(COSTS, AIM)
    two = plan_tail(COSTS, TailAim("cvar:0.9", None, beta=1.0, gap_scale=1.0, rounds=2))
    assert two.summary["threshold"] == one.summary["threshold"]
    assert (one.summary["beta"], two.summary["beta"]) == (0.5, 1.0)
    assert plan_tail(COSTS, TailAim("cvar:0.9", None, beta=1.0, gap_scale=2.0)).summary[
        "predicted"
    ] == pytest.approx(one.summary["predicted"])


def test_a_limit_decides_the_temperature() -> None:
    aim = TailAim("cvar:0.9", limit=3.0, beta=0.5, gap_scale=2.0, rounds=2)
    plan = plan_tail(COSTS, aim)
    assert plan.summary["predicted"]["risk"] <= 3.0
    assert plan.summary["predicted"]["risk"] == pytest.approx(3.0, rel=0.02)
    # A round's share of the strength that a limit takes.
    found = strength_for(
        torch.tensor(COSTS).flatten(),
        "cvar:0.9",
        3.0,
        prompt=torch.arange(200).repeat_interleave(8),
    )
    assert plan.summary["beta"] == pytest.approx(2 * 2.0 / found.strength)
    assert plan.summary["predicted"]["kl"] == found.kl
    for limit, words in ((100.0, "already"), (0.01, "least risk")):
        with pytest.raises(InputError, match=rf"safe\.limit: .*{words}"):
            plan_tail(COSTS, TailAim("cvar:0.9", limit, beta=0.5, gap_scale=1.0))


def test_the_words_warn_where_the_prediction_stands_on_little() -> None:
    assert "too few" not in tail_words("safe", plan_tail(COSTS, AIM).summary)
    strong = TailAim("mean", None, beta=0.001, gap_scale=1.0)
    words = tail_words("safe", plan_tail(COSTS, strong).summary)
    assert "too few for the prediction" in words
    assert "sample more answers" in words


PAIRS: list[dict[str, Any]] = [
    {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": -x, "score_rejected": -y}
    for x, y in ((0.0, 8.0), (1.0, 2.0), (0.5, 1.0), (0.0, 9.0), (0.0, 0.5))
]


def test_a_files_own_scores_are_the_sample() -> None:
    aim = TailAim("cvar:0.5", None, beta=1e3, gap_scale=1.0)
    rows, plan = charged_rows(load_pairs(PAIRS), aim, "pairs.jsonl", anchors=1.0)
    # Hardly tilted: the median of 0, 8, 1, 2, .5, 1, 0, 9, 0, .5 lies between 0.5 and 1.
    assert plan.summary["threshold"] in (0.5, 1.0)
    eta = plan.summary["threshold"]
    expected = [2 * max(0.0, -pair["score_rejected"] - eta) for pair in PAIRS]
    assert [-score for score in rows["score_rejected"]] == pytest.approx(expected)
    assert len(rows) == 5
    ordered, _ = charged_rows(load_pairs(PAIRS), TailAim("cvar:0.5", None, 1e3, 1.0), "pairs.jsonl")
    assert len(ordered) == sum(value > 0 for value in expected)
    groups = load_groups(
        [{"prompt": "a", "completions": ["b", "c", "d"], "scores": [0.0, -1.0, -5.0]}] * 4
    )
    rows, _ = charged_rows(groups, aim, "groups.jsonl")
    assert rows["scores"][0][-1] < rows["scores"][0][0] == 0.0


def test_rows_that_say_nothing_of_the_tail_are_refused() -> None:
    unscored = [{k: v for k, v in pair.items() if not k.startswith("score")} for pair in PAIRS]
    with pytest.raises(InputError, match=r"pairs.jsonl: safe.answer_risk needs 'score_chosen'"):
        charged_rows(load_pairs(unscored), AIM, "pairs.jsonl")
    alike = load_pairs([{**PAIRS[0], "score_rejected": 0.0}] * 3)
    with pytest.raises(InputError, match="charges all answers to a prompt alike"):
        charged_rows(alike, TailAim("cvar:0.5", None, 1.0, 1.0), "pairs.jsonl", anchors=1.0)


def test_the_configuration_says_what_each_round_aims_at() -> None:
    step = StepConfig(answer_risk="cvar:0.95")
    config = AlignConfig(order=("helpful", "safe", "safe"), safe=step, lambda_=0.5, beta=0.1)
    first, second = (config.tail_aim(name, "safe") for name in ("safe", "safe-2"))
    assert first == TailAim("cvar:0.95", None, beta=0.4, gap_scale=1.0, rounds=2)
    assert second == TailAim("cvar:0.95", None, beta=0.4, gap_scale=1.0, rounds=1)
    assert config.tail_aim("helpful", "helpful") is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"helpful": {"answer_risk": "cvar:0.9"}}, "helpful.answer_risk: .*give safe.answer_risk"),
        ({"safe": {"answer_risk": "paper_code:0.9"}}, "safe.answer_risk: .*no tail cost"),
        ({"safe": {"answer_risk": "median"}}, "safe.answer_risk: .*not known"),
        ({"safe": {"limit": 1.0}}, "safe.limit: needs answer_risk"),
        (
            {"safe": {"limit": 1.0, "answer_risk": "mean", "target": "hard"}},
            "safe.limit: .*needs target: gap or soft",
        ),
        (
            {"safe": {"limit": 1.0, "answer_risk": "mean", "beta": 0.1}},
            "safe.limit: .*beta",
        ),
        (
            {"safe": {"loss_type": "kto", "target": "hard", "answer_risk": "mean", "risk": "mean"}},
            "safe.answer_risk: needs scores",
        ),
        (
            {"safe": {"limit": math.nan, "answer_risk": "mean"}},
            "safe.limit: nan should be a finite",
        ),
        (
            {"safe": {"answer_risk": "mean", "sampling": {"temperatures": (0.5,)}}},
            "safe.answer_risk: is the risk of the model's own answers",
        ),
        ({"safe": {"data": "x.jsonl", "rows": "groups"}}, "safe.rows: is groups, which is how"),
        (
            {"safe": {"data": "x.jsonl", "anchors": 0.5}},
            "safe.anchors: .*safe.answer_risk",
        ),
        ({"safe": {"anchors": 1.5}}, "safe.anchors: 1.5 should be less"),
        ({"safe": {"anchors": 0.5, "target": "hard"}}, "safe.anchors: .*target: gap or soft"),
        (
            {"safe": {"loss_type": "kto", "target": "hard", "rows": "groups"}},
            "safe.rows: .*'kto'",
        ),
        ({"safe": {"max_gap": 0.0}}, "safe.max_gap"),
        (
            {"safe": {"max_gap": 2.0, "target": "hard"}},
            "safe.max_gap: .*needs target",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        AlignConfig(**settings)


class Costly(Letters):
    """A world in which every letter costs something."""

    def cost(self, prompt: Any, answer: str) -> float:
        """A third of the sum of the letters' places, modulo 5."""
        return sum(ord(letter) % 5 for letter in answer) / 3


def test_a_job_in_two_rounds_of_groups(job: Callable[..., dict[str, Any]]) -> None:
    config = job(world="tests.pipeline.test_tail:Costly", order=["helpful", "safe", "safe"])
    config["safe"] |= {
        "answer_risk": "cvar:0.8",
        "max_gap": 5.0,
        "loss_type": "rsa1",
        "rows": "groups",
        "anchors": 1.0,
    }
    result = align(config)
    manifest = json.loads(result.manifest.read_text())
    first, second = (manifest["data"][name] for name in ("safe", "safe-2"))
    assert first["groups"] > 0
    assert first["tail"]["threshold"] > 0
    assert first["tail"]["sampled"] != second["tail"]["sampled"]  # solved again
    assert manifest["models"]["safe"]["beta"] == first["tail"]["beta"] == 0.2
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    for name in ("safe", "safe-2"):
        assert f"Step {name}, predicted from the answers that it starts from" in page
    # With a limit the temperature is solved, and trained at.
    config["safe"]["limit"] = 0.9 * first["tail"]["sampled"]["risk"]
    config["order"] = ["helpful", "safe"]
    manifest = json.loads(align(config).manifest.read_text())
    tail = manifest["data"]["safe"]["tail"]
    assert tail["predicted"]["risk"] <= config["safe"]["limit"]
    assert manifest["models"]["safe"]["beta"] == tail["beta"]
    # One that is kept already leaves the model as it is, and says so.
    config["safe"]["limit"] = 1e3
    for already in ("", "done before"):
        result = align(config)
        manifest = json.loads(result.manifest.read_text())
        assert "helpful" in manifest["models"], already
        assert "safe" not in manifest["models"], already
        assert result.report is not None
        assert "The model passes on as it is" in result.report.read_text(encoding="utf-8")
        results = json.loads(Path(str(result.results)).read_text())
        assert results["models"]["final"]["kl"] == results["models"]["step1"]["kl"]
    config["helpful"]["skip"] = True
    with pytest.raises(InputError, match="nothing is left to train"):
        align(config)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_job_on_given_scores(
    job: Callable[..., dict[str, Any]], tmp_path: Path, grouped: bool
) -> None:
    rows: list[dict[str, Any]] = tiny.make_pairs(8)
    if grouped:
        rows = [
            {
                "prompt": row["prompt"],
                "completions": [row["chosen"], row["rejected"]],
                "scores": [row["score_chosen"], row["score_rejected"]],
            }
            for row in rows
        ]
    path = tmp_path / "safe.jsonl"
    write_json_lines(path, rows)
    config = job(world=None, evaluation=None)
    config["helpful"] |= {"skip": True}
    config["order"] = ["safe", "safe"]
    config["safe"] |= {"data": str(path), "answer_risk": "erm:1.0", "loss_type": "dpo"}
    manifest = json.loads(align(config).manifest.read_text())
    # The file stays where it is: both rounds are solved for the end of both.
    first, second = (manifest["data"][name]["tail"] for name in ("safe", "safe-2"))
    assert first["predicted"] == second["predicted"]
    assert first["predicted"]["kl"] > 0
    assert manifest["data"]["safe"]["pairs"] == 8
    # What can be known of a file is refused before any work.
    config["output_dir"] = str(tmp_path / "not_made")
    config["safe"]["limit"] = 1e3
    with pytest.raises(InputError, match=r"safe\.limit: .*already"):
        align(config)
    assert not Path(config["output_dir"]).exists()
