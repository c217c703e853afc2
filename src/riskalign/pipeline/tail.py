"""What becomes of a step's rows before training, by what their answers cost.

The risk of whole answers charges each cost by a threshold that is solved for; SafeDPO's rule turns
pairs round or leaves them out.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from datasets import Dataset

from riskalign.data import Preferences, SafetyRule, load_pairs, safety_rows
from riskalign.data.sources import first_rows, streamed
from riskalign.errors import InputError
from riskalign.pipeline.settings import StepConfig
from riskalign.risk import TailCost, answer_risk, strength_for, tail_optimum
from riskalign.worlds import Prompt
from riskalign.worlds.pairs import Rows, Scored, by_reward, pair_rows, with_anchors

# Fewer answers than these under a prediction, and it is worth nothing.
_FEW_A_PROMPT = 2.0
_FEW_IN_TAIL = 20.0


@dataclass(frozen=True)
class TailAim:
    """What a step asks of whole answers.

    `risk` is the measure, `limit` what it may be at most (None: `beta` says how much it weighs).
    The step's margins are `beta` nats and its targets `gap_scale` times a difference of scores;
    `rounds` are left, this one included, and share what is to be done. `ordered`: the targets are
    orders, for which answers of one charge are of no use.
    """

    risk: str
    limit: float | None
    beta: float
    gap_scale: float
    rounds: int = 1
    ordered: bool = False


class TailSummary(TypedDict):
    """What costs are charged, at which temperature, and what is expected of it, as in manifests.

    `sampled` and `predicted` say what the answers are before and after training: cost, risk, reward
    and KL. `answers_a_prompt` and the effective numbers say how many answers that stands on.
    """

    risk: str
    limit: float | None
    ordered: bool
    beta: float
    threshold: float | None
    phi: dict[str, float]
    sampled: dict[str, float]
    predicted: dict[str, float]
    answers_a_prompt: float
    effective_a_prompt: float
    effective_tail: float


@dataclass(frozen=True)
class TailPlan:
    """How costs are charged."""

    phi: TailCost
    summary: TailSummary

    def score(self, answer: Scored) -> tuple[float, float]:
        """Minus what its cost is charged; among equals the more helpful answer is better."""
        return self.charged([answer.cost])[0], answer.reward

    def charged(self, costs: Sequence[float]) -> list[float]:
        """Minus what each cost is charged: scores."""
        scores: list[float] = (-self.phi(torch.tensor(costs, dtype=torch.float64))).tolist()
        return scores


def plan_tail(
    costs: Sequence[Sequence[float]],
    aim: TailAim,
    rewards: Sequence[Sequence[float]] | None = None,
) -> TailPlan:
    """Solve for the threshold, and where `aim.limit` is given for the temperature.

    `costs` and `rewards` are of answers to each prompt, of the model that the step starts from. The
    charge belongs to the policy at the end of all rounds that are left (docs/method.md, section 8).

    Raises `LimitKept` where the limit is kept already, `InputError` where it cannot be kept.
    """
    flat = _flat(costs)
    prompt = torch.tensor([i for i, own in enumerate(costs) for _ in own])
    scale, beta = aim.rounds * aim.gap_scale, aim.beta
    if aim.limit is None:
        optimum = tail_optimum(flat, aim.risk, scale / beta, prompt=prompt)
    else:
        try:
            optimum = strength_for(flat, aim.risk, aim.limit, prompt=prompt)
        except InputError as error:
            raise type(error)(f"safe.limit: {error}") from error
        beta = scale / optimum.strength
    answers = torch.bincount(prompt).double()
    log_probs = (1.0 / (answers[prompt] * len(answers))).log()
    risk = float(answer_risk(aim.risk)(flat, log_probs).value)
    before = {"cost": float(log_probs.exp() @ flat), "risk": risk}
    after = {"cost": optimum.cost, "risk": optimum.risk, "kl": optimum.kl}
    if rewards is not None:
        before["reward"] = float(log_probs.exp() @ _flat(rewards))
        after["reward"] = float(optimum.weights @ _flat(rewards))
    threshold = optimum.phi.threshold
    summary: TailSummary = {
        "risk": aim.risk,
        "limit": aim.limit,
        "ordered": aim.ordered,
        "beta": beta,
        "threshold": threshold if math.isfinite(threshold) else None,
        "phi": dataclasses.asdict(optimum.phi),
        "sampled": before,
        "predicted": after,
        "answers_a_prompt": float(answers.mean()),
        "effective_a_prompt": optimum.effective,
        "effective_tail": optimum.effective_tail,
    }
    return TailPlan(optimum.phi, summary)


def _flat(values: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor([value for own in values for value in own], dtype=torch.float64)


def tail_words(name: str, summary: TailSummary, *, given: bool = False) -> str:
    """A plan in a sentence or two, with a warning where its prediction is worth little.

    `given`: it stands on a file's scores, not on the model's own answers.
    """
    before, after = summary["sampled"], summary["predicted"]
    titles = {"risk": f"{summary['risk']} of the cost", "cost": "mean cost", "reward": "reward"}
    parts = [f"{titles[of]} {before[of]:.3g} -> {after[of]:.3g}" for of in titles if of in before]
    source = "the file's scores" if given else "the answers that it starts from"
    words = f"Step {name}, predicted from {source}: {', '.join(parts)}, "
    words += f"at {after['kl']:.2g} nats of KL and beta {summary['beta']:.3g}"
    if summary["threshold"] is not None:
        words += f"; costs above {summary['threshold']:.3g} are charged"
    few, tail = summary["effective_a_prompt"], summary["effective_tail"]
    n = summary["answers_a_prompt"]
    words += f" ({few:.1f} effective of {n:.3g} answers a prompt, {tail:.0f} in the tail)."
    if summary["ordered"]:
        words += " This is for targets of gaps; an order alone learns no sizes."
    if few < min(_FEW_A_PROMPT, n / 2) or tail < _FEW_IN_TAIL:
        less = "raise the limit" if summary["limit"] is not None else "lower lambda_"
        words += " That is too few for the prediction to mean much: "
        words += f"{'give' if given else 'sample'} more answers or prompts, or {less}."
    return words


def nothing_charged(summary: TailSummary) -> str:
    """Why no two answers to a prompt are told apart, and what to do."""
    more = "Raise lambda_ (or lower safe.beta)" if summary["limit"] is None else "Lower the limit"
    return (
        f"safe.answer_risk {summary['risk']} charges all answers to a prompt alike: none has some "
        f"above {summary['threshold']} and some below, where it charges at beta "
        f"{summary['beta']:.3g}. {more}, lower the level, give more answers a prompt, or set "
        "safe.answer_risk: null."
    )


def charged_rows(
    rows: Dataset, aim: TailAim, source: str | None, *, anchors: float = 0.0, seed: int = 0
) -> tuple[Dataset, TailPlan]:
    """Given rows with what their scores are charged: minus a score is the cost.

    The file's own scores are the sample. Rows whose answers are all charged alike make up at most
    the share `anchors`, drawn by `seed`.

    Raises `InputError` where scores are missing or nothing is left.
    """
    sides = ("score_chosen", "score_rejected")
    grouped = "scores" in rows.column_names
    scores = list(rows["scores"] if grouped else zip(*(rows[s] for s in sides), strict=True))
    if any(score is None for own in scores for score in own):
        raise InputError(
            f"safe.data: {source}: safe.answer_risk needs 'score_chosen' and 'score_rejected', "
            "minus the costs, in every row. Add them, or set safe.answer_risk: null."
        )
    plan = plan_tail([[-score for score in own] for own in scores], aim)
    tail: list[tuple[int, dict[str, Any]]] = []
    alike: list[tuple[int, dict[str, Any]]] = []
    for place, (row, own) in enumerate(zip(rows, scores, strict=True)):
        new = plan.charged([-score for score in own])
        changed = {"scores": new} if grouped else dict(zip(sides, new, strict=True))
        (tail if len(set(new)) > 1 else alike).append((place, {**row, **changed}))
    if not tail:
        raise InputError(f"safe.data: {source}: {nothing_charged(plan.summary)}")
    kept = with_anchors(tail, alike, anchors, seed).rows
    return Dataset.from_list(kept, features=rows.features), plan


def sampled_safe_pairs(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Scored]],
    rule: SafetyRule,
    source: str,
    *,
    pairs_per_prompt: int = 1,
) -> tuple[Rows, dict[str, int]]:
    """Pairs by reward after SafeDPO's rule, and how many were kept, swapped and dropped.

    Raises `InputError` where the rule leaves none.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    alike = empty = 0
    for prompt, own in zip(prompts, answers, strict=True):
        made = pair_rows([prompt], [own], by_reward, pairs_per_prompt=pairs_per_prompt)
        alike, empty = alike + made.alike, empty + made.empty
        cost = {answer.text: answer.cost for answer in own}
        for row in made.rows:
            of = {f"cost_{side}": cost[row[side][0]["content"]] for side in ("chosen", "rejected")}
            rows.append((source, row | of))
    kept, counts = _by_rule(rows, rule, source)
    return Rows(kept, 0, alike, empty), counts


def step_source(step: StepConfig) -> Any:
    """What a step with data of its own reads, which is not read yet."""
    assert step.data is not None
    return streamed(step.data, "train", step.data) if step.dataset_streaming else step.data


def given_safe_pairs(
    step: StepConfig, preferences: Preferences | None, rule: SafetyRule
) -> tuple[Dataset, dict[str, int]]:
    """As `sampled_safe_pairs`, of the step's file or of the job's judged answers.

    Raises `InputError` for a row without costs as well.
    """
    if step.data is not None:
        source = step.data
        rows = first_rows(step_source(step), "train", source, step.max_train_samples)
    else:
        assert preferences is not None
        source = preferences.source
        rows = ((f"{source}, pair {i}", row) for i, row in enumerate(preferences.helpful, 1))
    kept, counts = _by_rule(rows, rule, source)
    return load_pairs(kept, name_for_errors="helpful.data"), counts


def _by_rule(
    rows: Iterable[tuple[str, Mapping[str, Any]]], rule: SafetyRule, source: str
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    made = safety_rows(rows, rule)
    if made.dropped and not made.rows:
        raise InputError(
            f"{source}: helpful.safe_cost {rule.threshold:g} leaves no pair: each of the "
            f"{made.dropped} is of two answers that cost more. Raise it, or sample more answers."
        )
    return made.rows, {f"safety_{name}": getattr(made, name) for name in made._fields[1:]}
