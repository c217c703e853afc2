"""The risk of whole answers in a step: what each cost is charged, solved before training."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from riskalign.errors import InputError
from riskalign.risk import TailCost, TailOptimum, answer_risk, strength_for, tail_optimum
from riskalign.worlds.pairs import Scored, with_anchors

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


@dataclass(frozen=True)
class TailPlan:
    """What costs are charged, at which temperature, and what is expected of it.

    `summary` is of JSON's types: the charge, the threshold, what the answers are expected to be
    after training and were before, and how many of them that stands on.
    """

    phi: TailCost
    beta: float
    summary: dict[str, Any]

    def score(self, answer: Scored) -> tuple[float, float]:
        """Minus what its cost is charged; among equals the more helpful answer is better."""
        return self.charged([answer.cost])[0], answer.reward

    def charged(self, costs: Sequence[float]) -> list[float]:
        """Minus what each cost is charged: scores."""
        found: list[float] = (-self.phi(torch.tensor(costs, dtype=torch.float64))).tolist()
        return found


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
    flat = torch.tensor([cost for own in costs for cost in own], dtype=torch.float64)
    prompt = torch.tensor([i for i, own in enumerate(costs) for _ in own])
    if aim.limit is None:
        strength = aim.rounds * aim.gap_scale / aim.beta
        found = tail_optimum(flat, aim.risk, strength, prompt=prompt)
        beta = aim.beta
    else:
        try:
            found = strength_for(flat, aim.risk, aim.limit, prompt=prompt)
        except InputError as error:
            raise type(error)(f"safe.limit: {error}") from error
        beta = aim.rounds * aim.gap_scale / found.strength
    return TailPlan(found.phi, beta, _summary(found, aim, beta, flat, prompt, rewards))


def _summary(
    found: TailOptimum,
    aim: TailAim,
    beta: float,
    costs: torch.Tensor,
    prompt: torch.Tensor,
    rewards: Sequence[Sequence[float]] | None,
) -> dict[str, Any]:
    answers = torch.bincount(prompt).double()
    base = (1.0 / (answers[prompt] * len(answers))).log()
    before = {"cost": float(base.exp() @ costs), "risk": _risk(aim.risk, costs, base)}
    after = {"cost": found.cost, "risk": found.risk, "kl": found.kl}
    if rewards is not None:
        flat = torch.tensor([reward for own in rewards for reward in own], dtype=torch.float64)
        before["reward"], after["reward"] = float(base.exp() @ flat), float(found.weights @ flat)
    threshold = found.phi.threshold
    return {
        "risk": aim.risk,
        "limit": aim.limit,
        "ordered": aim.ordered,
        "beta": beta,
        "threshold": threshold if math.isfinite(threshold) else None,
        "phi": dataclasses.asdict(found.phi),
        "sampled": before,
        "predicted": after,
        "answers_a_prompt": float(answers.mean()),
        "effective_a_prompt": found.effective,
        "effective_tail": found.effective_tail,
    }


def _risk(spec: str, costs: torch.Tensor, log_probs: torch.Tensor) -> float:
    return float(answer_risk(spec)(costs, log_probs).value)


def tail_words(name: str, summary: dict[str, Any], *, given: bool = False) -> str:
    """A plan in a sentence or two, with a warning where its prediction is worth little.

    `given`: it stands on a file's scores, not on the model's own answers.
    """
    before, after = summary["sampled"], summary["predicted"]
    parts = [f"{summary['risk']} of the cost {before['risk']:.3g} -> {after['risk']:.3g}"]
    parts.append(f"mean cost {before['cost']:.3g} -> {after['cost']:.3g}")
    if "reward" in after:
        parts.append(f"reward {before['reward']:.3g} -> {after['reward']:.3g}")
    source = "the file's scores" if given else "the answers that it starts from"
    words = (
        f"Step {name}, predicted from {source}: {', '.join(parts)}, "
        f"at {after['kl']:.2g} nats of KL and beta {summary['beta']:.3g}"
    )
    if summary["threshold"] is not None:
        words += f"; costs above {summary['threshold']:.3g} are charged"
    few, tail = summary["effective_a_prompt"], summary["effective_tail"]
    words += f" ({few:.1f} effective of {summary['answers_a_prompt']:.3g} answers a prompt, "
    words += f"{tail:.0f} in the tail)."
    if summary["ordered"]:
        words += " This is for targets of gaps; an order alone learns no sizes."
    if few < min(_FEW_A_PROMPT, summary["answers_a_prompt"] / 2) or tail < _FEW_IN_TAIL:
        less = "raise the limit" if summary["limit"] is not None else "lower lambda_"
        words += (
            " That is too few for the prediction to mean much: "
            f"{'give' if given else 'sample'} more answers or prompts, or {less}."
        )
    return words


def nothing_charged(plan: TailPlan) -> str:
    """Why no two answers to a prompt are told apart, and what to do."""
    summary = plan.summary
    more = "Raise lambda_ (or lower safe.beta)" if summary["limit"] is None else "Lower the limit"
    return (
        f"safe.answer_risk {summary['risk']} charges all answers to a prompt alike: at beta "
        f"{summary['beta']:.3g} it is best to charge costs above {summary['threshold']} alone, and "
        f"no prompt has answers on both sides of it. {more}"
        ", lower the level, give more answers a prompt, or set safe.answer_risk: null."
    )


def charged_rows(
    rows: Dataset, aim: TailAim, source: str | None, *, anchors: float = 0.0, seed: int = 0
) -> tuple[Dataset, TailPlan]:
    """Given rows with what their scores are charged: minus a score is the cost.

    The file's own scores are the sample. Rows whose answers are all charged alike make up at most
    the share `anchors`, drawn by `seed`.

    Raises `InputError` where scores are missing or nothing is left.
    """
    grouped = "scores" in rows.column_names
    if not grouped and any(score is None for score in rows["score_chosen"]):
        raise InputError(
            f"safe.data: {source}: safe.answer_risk needs 'score_chosen' and 'score_rejected', "
            "minus the costs, in every row. Add them, or set safe.answer_risk: null."
        )
    scores = (
        list(rows["scores"])
        if grouped
        else [list(p) for p in zip(rows["score_chosen"], rows["score_rejected"], strict=True)]
    )
    plan = plan_tail([[-score for score in own] for own in scores], aim)
    tail: list[tuple[int, dict[str, Any]]] = []
    alike: list[tuple[int, dict[str, Any]]] = []
    for place, (row, own) in enumerate(zip(rows, scores, strict=True)):
        new = plan.charged([-score for score in own])
        changed = {"scores": new} if grouped else {"score_chosen": new[0], "score_rejected": new[1]}
        (tail if len(set(new)) > 1 else alike).append((place, {**row, **changed}))
    if not tail:
        raise InputError(f"safe.data: {source}: {nothing_charged(plan)}")
    kept = with_anchors(tail, alike, anchors, seed).rows
    return Dataset.from_list(kept, features=rows.features), plan
