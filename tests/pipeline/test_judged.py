"""Jobs on judged answers: pairs, held-out accuracy and learnt scorers from one file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.data import PreferenceSettings, load_preferences
from riskalign.data.identity import text_hash
from riskalign.errors import InputError
from riskalign.pipeline import evaluation_prompts, load_config, load_plan, run_plan
from riskalign.pipeline.judged import JudgedWorld, prompts_of
from riskalign.scorers import load_scorer, train_embedding_scorer
from riskalign.worlds import Prompt
from riskalign.worlds.pairs import score_answers
from tests.data.test_preferences import record, write
from tests.pipeline.test_run import Recorder
from tests.scorers import toy

Make = Callable[..., dict[str, Any]]


def rows(n: int = 60) -> list[dict[str, Any]]:
    """Answers of which those with the code are unsafe."""
    made = []
    for i in range(n):
        row = record(f"What is in box {i}?", (2, 0), better=i % 2)
        row["response_0"] = f"the code is {i}"
        row["response_1"] = f"a red ball {i}" if i % 3 else f"a blue ball {i}"
        made.append(row)
    return made


@pytest.fixture
def data_job(job: Make, tmp_path: Path) -> Make:
    """`data_job(**overrides)`: a tiny job on a file, its scorers on a tiny encoder."""
    path = write(tmp_path / "judged.jsonl", rows())
    encoder = str(toy.make_encoder(tmp_path / "encoder"))

    def make(**overrides: Any) -> dict[str, Any]:
        config = job() | {
            "world": None,
            "data": {"path": path, "eval_fraction": 0.2, "scorer_fraction": 0.3},
            "scoring": {"encoder": encoder},
        }
        config["helpful"] |= {"target": "hard"}
        return config | overrides

    return make


def test_one_file_gives_pairs_prompts_and_scorers(data_job: Make, tmp_path: Path) -> None:
    recorder = Recorder()
    config = data_job()
    result = align(config, progress=recorder)
    assert recorder.stages == [
        "load", "judge-reward", "judge-cost", "train-helpful", "accuracy-helpful", "train-safe",
        "accuracy-safe", "model", "evaluate-start", "evaluate-step1", "evaluate-final",
        "evaluate-dial-0.5", "report",
    ]  # fmt: skip
    found = load_preferences(PreferenceSettings(**config["data"]))
    assert result.results is not None
    results = json.loads(result.results.read_text())
    assert results["held_out"]["safe"]["pairs"] == len(found.safe_eval) > 0
    assert results["scorers"]["judge-cost"].keys() >= {"accuracy", "auc", "brier"}
    card = load_scorer(tmp_path / "run" / "scorers" / "cost").card
    assert results["corrected"]["labels"] == card.judged_on
    assert results["corrected"]["sensitivity"][0] == card.verdicts["unsafe_called_unsafe"]
    assert results["corrected"]["specificity"][0] == card.verdicts["safe_called_safe"]
    assert results["corrected"]["unsafe_rate"].keys() == results["models"].keys()
    (note,) = results["notes"]
    assert f" {len(found.prompts('train'))} " in note
    assert result.report is not None
    assert note in result.report.read_text()
    asked = {
        prompt.id for prompt in evaluation_prompts(load_config(tmp_path / "run" / "config.yaml"))
    }
    lines = (tmp_path / "run" / "evaluation" / "final.jsonl").read_text().splitlines()
    assert {json.loads(line)["prompt_id"] for line in lines} == asked
    learnt = {text_hash(row["prompt"]) for row in [*found.helpful, *found.safe]}
    assert prompts_of(str(tmp_path / "run" / "model")) == learnt
    manifest = json.loads(result.manifest.read_text())
    assert manifest["data"]["safe"]["pairs"] == len(found.safe)
    assert manifest["data"]["safe"]["counts"]["read"] == 60
    again = Recorder()
    align(config, progress=again)
    assert all(note == "done before" for note in again.notes[1:])


def test_scorers_on_disk_must_be_independent(data_job: Make, tmp_path: Path) -> None:
    config = data_job()
    path, encoder = config["data"]["path"], config["scoring"]["encoder"]
    scorer = train_embedding_scorer("cost", path, encoder=encoder, n_boot=20)
    scorer.save(tmp_path / "cost")
    config["scoring"] |= {"cost": str(tmp_path / "cost")}
    with pytest.raises(InputError, match=r"scoring.cost: .* learnt from \d+ of the prompts that"):
        align(config)
    assert not (tmp_path / "run" / "helpful").exists()

    others = [row | {"prompt": f"Other {i}"} for i, row in enumerate(rows(30))]
    train_embedding_scorer("cost", others, encoder=encoder, n_boot=20).save(tmp_path / "other")
    config["scoring"] |= {"cost": str(tmp_path / "other")}
    assert align(config).results is not None

    config["scoring"] |= {"cost": None, "reward": str(tmp_path / "other")}
    with pytest.raises(InputError, match=r"scoring.reward: .* is a cost scorer"):
        align(config)


def test_prompts_of_a_file_are_asked(data_job: Make, tmp_path: Path) -> None:
    path = tmp_path / "asked.json"
    config = data_job()
    preferences = load_preferences(PreferenceSettings(**config["data"]))
    learnt: Any = [preferences.prompts("train")[0], preferences.prompts("scorer")[0]]
    asked = [{"prompt": f"May I ask {i}?"} for i in range(4)]
    path.write_text(json.dumps([*asked, *({"prompt": p[0]["content"]} for p in learnt)]))
    config["scoring"] |= {"prompts": str(path)}
    result = align(config)
    first = (tmp_path / "run" / "evaluation" / "final.jsonl").read_text().splitlines()
    assert len({json.loads(line)["prompt_id"] for line in first}) == 4
    assert result.results is not None
    assert "nor among the 4 asked here" in json.loads(result.results.read_text())["notes"][0]
    config["evaluation"] |= {"prompts": 5}
    found = align(config).results
    assert found is not None
    note = json.loads(found.read_text())["notes"][0]
    assert "evaluation.prompts" in note
    assert re.findall(r"\d+", note) == ["4", "5", "2"]  # asked, wanted, left out
    path.write_text(json.dumps(asked[:1]))
    with pytest.raises(InputError, match="there are 1 prompts to ask"):
        align(config)


def test_methods_are_compared_on_a_file(data_job: Make, tmp_path: Path) -> None:
    group = {"presets": ["sacpo", "dpo-safe"], "seeds": [3]}
    given = data_job(compare=group, evaluation=data_job()["evaluation"] | {"dial": []})
    result = run_plan(load_plan(given))
    content = json.loads(result.results.read_text())
    assert content["world"] == given["data"]["path"]
    cell = json.loads((tmp_path / "run" / "cells" / "sacpo-seed3.json").read_text())
    assert set(cell["held_out"]) == {"helpful", "safe"}
    recorder = Recorder()
    run_plan(load_plan(given), progress=recorder)
    assert recorder.notes == ["done before"] * 2

    # A cell is of what lies in the file, wherever it lies.
    moved = tmp_path / "moved.jsonl"
    moved.write_text(Path(given["data"]["path"]).read_text())
    given["data"] |= {"path": str(moved)}
    recorder = Recorder()
    run_plan(load_plan(given), progress=recorder)
    assert recorder.notes == ["done before"] * 2
    moved.write_text("\n".join(moved.read_text().splitlines()[:-1]) + "\n")
    given["compare"] = {"presets": ["dpo-safe"], "seeds": [3]}
    recorder = Recorder()
    run_plan(load_plan(given), progress=recorder)
    assert "done before" not in recorder.notes[:1]


def test_own_answers_are_labelled_by_scorers_that_do_not_judge(
    data_job: Make, tmp_path: Path
) -> None:
    config = data_job()
    config["safe"] |= {"own_answers": True, "sampling": {"prompts": 8}}
    recorder = Recorder()
    result = align(config, progress=recorder)
    run = tmp_path / "run"
    assert [stage for stage in recorder.stages if stage.startswith(("label", "pairs"))] == [
        "label-reward", "label-cost", "pairs-safe",
    ]  # fmt: skip
    manifest = json.loads(result.manifest.read_text())
    assert manifest["data"]["safe"]["prompts"] == 8
    judge, labeller = (load_scorer(run / name / "cost") for name in ("scorers", "labellers"))
    pairs = [json.loads(line) for line in (run / "pairs" / "safe.jsonl").read_text().splitlines()]
    for pair in pairs:
        costs = labeller.score([pair["prompt"]] * 2, [pair["chosen"], pair["rejected"]])
        assert -pair["score_chosen"] == pytest.approx(max(0, costs[0]))
        assert -pair["score_rejected"] == pytest.approx(max(0, costs[1]))
    # Whoever learnt what the labeller learnt may not judge, and whoever judges learnt other things.
    assert not set(judge.card.prompt_hashes) & set(labeller.card.prompt_hashes)
    known = prompts_of(str(result.model))
    assert known is not None
    assert set(labeller.card.prompt_hashes) <= known
    assert "independent of the 2" in manifest["notes"][0]

    again = Recorder()
    align(config, progress=again)
    assert all(note == "done before" for note in again.notes[1:])

    # A judge that is not independent is refused before anything is trained.
    config["output_dir"] = str(tmp_path / "other")
    config["scoring"] |= {"cost": str(run / "labellers" / "cost")}
    recorder = Recorder()
    with pytest.raises(InputError, match=r"scoring.cost: .* the steps are trained on"):
        align(config, progress=recorder)
    assert recorder.stages == ["load"]


def test_own_answers_without_an_evaluation(data_job: Make, tmp_path: Path) -> None:
    config = data_job(evaluation=None)
    config["helpful"] |= {"own_answers": True, "target": "gap", "sampling": {"prompts": 8}}
    assert align(config).results is None
    run = tmp_path / "run"
    assert not (run / "scorers").exists()
    labeller = load_scorer(run / "labellers" / "reward")
    for line in (run / "pairs" / "helpful.jsonl").read_text().splitlines():
        pair = json.loads(line)
        rewards = labeller.score([pair["prompt"]] * 2, [pair["chosen"], pair["rejected"]])
        # Log-odds, not probabilities: a gap is what the loss regresses on.
        assert pair["score_chosen"] == pytest.approx(rewards[0])
        assert pair["score_rejected"] == pytest.approx(rewards[1])
    assert "label-cost" in json.loads((run / "manifest.json").read_text())["models"]


def test_own_answers_need_enough_prompts(data_job: Make, tmp_path: Path) -> None:
    config = data_job()
    config["safe"] |= {"own_answers": True, "sampling": {"prompts": 500}}
    message = r"^safe.sampling.prompts is 500, and there are \d+ training"
    with pytest.raises(InputError, match=message):
        align(config)
    # A comparison says so before its other methods are trained.
    config = data_job(compare={"presets": ["dpo-helpful", "dpo-safe"], "seeds": [1]})
    config["compare"]["settings"] = {
        "dpo-safe": {"safe.own_answers": True, "safe.sampling.prompts": 500}
    }
    with pytest.raises(InputError, match=message):
        run_plan(load_plan(config))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_own_answers_need_both_labels(data_job: Make, tmp_path: Path) -> None:
    plain = [{"prompt": f"p {i}", "chosen": f"a {i}", "rejected": f"b {i}"} for i in range(9)]
    config = data_job(data={"path": write(tmp_path / "plain.jsonl", plain)}, evaluation=None)
    config["helpful"] |= {"own_answers": True, "sampling": {"prompts": 2}}
    config["safe"] |= {"skip": True}
    with pytest.raises(InputError, match=r"^helpful.own_answers: .* no label says .* safer"):
        align(config)


def test_own_answers_to_a_prompt_too_long_are_refused_first(data_job: Make, tmp_path: Path) -> None:
    long = [row | {"prompt": row["prompt"] + " and there" * 900} for row in rows()]
    data = {"path": write(tmp_path / "long.jsonl", long)}
    config = data_job(data=data, evaluation=None)
    config["helpful"] |= {"skip": True}
    config["safe"] |= {"own_answers": True, "sampling": {"prompts": 2}}
    recorder = Recorder()
    with pytest.raises(InputError, match="tokens"):
        align(config, progress=recorder)
    assert recorder.stages == ["load"]


@pytest.mark.parametrize("answer_risk", [None, "mean"])
def test_two_rounds_on_own_answers(data_job: Make, tmp_path: Path, answer_risk: str | None) -> None:
    config = data_job(evaluation=None, order=["safe", "safe"])
    config["safe"] |= {"own_answers": True, "sampling": {"prompts": 6}}
    config["safe"] |= {"answer_risk": answer_risk, "rows": "groups" if answer_risk else "pairs"}
    recorder = Recorder()
    align(config, progress=recorder)
    assert [stage for stage in recorder.stages if stage != "load"] == [
        "label-reward", "label-cost", "pairs-safe", "train-safe", "accuracy-safe", "pairs-safe-2",
        "train-safe-2", "accuracy-safe-2", "model",
    ]  # fmt: skip
    first, second = ((tmp_path / "run" / "pairs" / f"{name}.jsonl") for name in ("safe", "safe-2"))
    assert first.read_text() != second.read_text()


def test_a_steps_own_data_count_as_trained_on(data_job: Make, tmp_path: Path) -> None:
    config = data_job()
    preferences = load_preferences(PreferenceSettings(**config["data"]))
    sides = {side: preferences.prompts(side) for side in ("eval", "scorer")}
    path = tmp_path / "own.jsonl"

    def give(prompts: list[Any]) -> None:
        answers = {
            "chosen": [{"role": "assistant", "content": "a ball"}],
            "rejected": [{"role": "assistant", "content": "a code"}],
        }
        write(path, [{"prompt": prompt, **answers} for prompt in prompts])

    config["helpful"] |= {"data": str(path)}
    give(sides["scorer"][:2])
    with pytest.raises(InputError, match="2 of the prompts set aside for the scorers"):
        align(config)
    give(sides["eval"][:3])
    config["evaluation"] |= {"prompts": len(sides["eval"])}
    found = align(config).results
    assert found is not None
    assert "3 more were left out" in json.loads(found.read_text())["notes"][0]
    known = {text_hash(prompt)[:16] for prompt in sides["eval"][:3]}
    lines = (tmp_path / "run" / "evaluation" / "final.jsonl").read_text().splitlines()
    assert not {json.loads(line)["prompt_id"] for line in lines} & known


def test_a_changed_file_is_noticed(data_job: Make, tmp_path: Path) -> None:
    """Held-out pairs of a step's own, chat template and encoder count by what they hold."""
    held = tmp_path / "held.jsonl"
    pair = {"prompt": "Hi", "chosen": "a ball", "rejected": "a code"}
    write(held, [pair])
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    given = data_job(
        compare={"presets": ["dpo-safe"], "seeds": [3]},
        chat_template=str(template),
        evaluation=data_job()["evaluation"] | {"dial": []},
    )
    given["safe"] |= {"eval_data": str(held)}

    def notes() -> list[str]:
        recorder = Recorder()
        run_plan(load_plan(given), progress=recorder)
        return recorder.notes

    notes()
    assert notes() == ["done before"]
    moved = held.rename(tmp_path / "other.jsonl")
    given["safe"] |= {"eval_data": str(moved)}
    assert notes() == ["done before"]
    write(moved, [pair, pair | {"chosen": "a blue ball"}])
    assert notes() != ["done before"]
    assert notes() == ["done before"]
    template.write_text("{% for m in messages %}{{ m.content }}! {% endfor %}")
    assert "done before" not in notes()
    tokenizer = Path(given["scoring"]["encoder"]) / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert notes() != ["done before"]


class Fixed:
    """A scorer of one opinion."""

    def __init__(self, score: float) -> None:
        self._score = score

    def score(self, prompts: list[Any], answers: list[str]) -> list[float]:
        return [self._score] * len(answers)


@pytest.mark.parametrize(
    ("score", "reward", "cost"), [(0.0, 0.5, 0.0), (-2.0, 0.1192, 0.0), (3.0, 0.9526, 3.0)]
)
def test_scores_become_rewards_and_costs(score: float, reward: float, cost: float) -> None:
    fixed: Any = Fixed(score)
    prompt = Prompt("a", ({"role": "user", "content": "b"},))
    for nats in (False, True):
        world = JudgedWorld({"train": [], "eval": []}, {}, nats=nats)
        world._scorers = {"reward": fixed, "cost": fixed}
        expected = score if nats else pytest.approx(reward, abs=1e-4)
        assert world.reward(prompt, "c") == expected
        assert world.cost(prompt, "c") == cost


def test_answers_are_scored_all_at_once() -> None:
    class Counted(Fixed):
        def score(self, prompts: list[Any], answers: list[str]) -> list[float]:
            calls.append(answers)
            return [float(len(answer)) for answer in answers]

    calls: list[list[str]] = []
    counted: Any = Counted(0.0)
    prompt = Prompt("a", ({"role": "user", "content": "b"},))
    world = JudgedWorld({"train": [], "eval": []}, {"reward": Path("r"), "cost": Path("c")})
    world._scorers = {"reward": counted, "cost": counted}
    scored = score_answers(world, [prompt], [["x", "yy", "x"]])
    assert [each.cost for each in scored[0]] == [1.0, 2.0, 1.0]
    assert calls == [["x", "yy"], ["x", "yy"]], "once for each scorer, equal answers once"


def test_a_label_is_needed_for_each_step(data_job: Make, tmp_path: Path) -> None:
    plain = [{"prompt": f"p {i}", "chosen": f"a {i}", "rejected": f"b {i}"} for i in range(9)]
    path = write(tmp_path / "plain.jsonl", plain)
    config = data_job(data={"path": path}, evaluation=None, scoring=None)
    with pytest.raises(InputError, match=r"safe.data: .* says nothing of which answer is safer"):
        align(config)
    config["safe"] |= {"skip": True}
    assert align(config).results is None


def test_helpful_labels_have_no_gap(data_job: Make) -> None:
    config = data_job()
    config["helpful"] |= {"target": "gap"}
    with pytest.raises(InputError, match=r"helpful.target 'gap' needs 'score_chosen'"):
        align(config)
