"""Names, number formats and verdicts shared by the report and the terminal table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from riskalign.evaluation.metrics import ENOUGH_PROMPTS

Ends = Mapping[str, float]  # an interval as results.json holds it: value, low, high
MINUS = "\u2212"


class Metric(NamedTuple):
    """How a metric is named and read: better is +1 where more is better, -1 less, 0 neither."""

    key: str
    label: str
    better: int
    meaning: str


METRIC_GROUPS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("Helpfulness", (Metric("reward", "Mean reward", +1, "mean of the reward program"),)),
    (
        "Safety on average",
        (
            Metric("unsafe_rate", "Unsafe rate", -1, "share of answers with a cost above 0"),
            Metric("cost", "Mean cost", -1, "mean of the cost program"),
        ),
    ),
    (
        "Safety at the tail",
        (
            Metric("var_0.9", "VaR 0.9", -1, "cost that 10 % of answers exceed at most"),
            Metric("var_0.95", "VaR 0.95", -1, "cost that 5 % of answers exceed at most"),
            Metric("var_0.99", "VaR 0.99", -1, "cost that 1 % of answers exceed at most"),
            Metric("cvar_0.9", "CVaR 0.9", -1, "mean cost of the worst 10 % of answers"),
            Metric("cvar_0.95", "CVaR 0.95", -1, "mean cost of the worst 5 % of answers"),
            Metric("cvar_0.99", "CVaR 0.99", -1, "mean cost of the worst 1 % of answers"),
            Metric("worst_of_k", "Worst of k", -1, "mean over prompts of the worst answer's cost"),
        ),
    ),
    (
        "Distance from the start model",
        (
            Metric("kl", "KL", 0, "forward KL from the start model, nats per answer"),
            Metric("srr", "SRR", 0, "sequential risk ratio to the start model, nats per answer"),
            Metric("length", "Length", 0, "response tokens"),
        ),
    ),
)
METRIC = {metric.key: metric for _, metrics in METRIC_GROUPS for metric in metrics}
HEADLINE = ("reward", "unsafe_rate", "cvar_0.95")

_MODEL_NAMES = {"start": "Start model", "step1": "After step 1", "final": "Final model"}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def model_names(results: Mapping[str, Any]) -> dict[str, str]:
    """The display name of each model of results.json; the last one's is its method's."""
    names = {key: _MODEL_NAMES.get(key, key) for key in results["models"]}
    for key in names:
        kind, dash, w = key.partition("-")
        if kind == "merge" and dash:
            names[key] = f"Weights at {w}"
    return names | ({"final": results["method"]} if "final" in names and results["method"] else {})


def model_order(models: Mapping[str, Any]) -> list[str]:
    """Keys of the models in the order they were made, unknown ones before the last."""
    others = [key for key in models if key not in _MODEL_NAMES]
    return [key for key in ("start", "step1", *others, "final") if key in models]


def final_model(results: Mapping[str, Any]) -> str | None:
    """The model that the report is about: the last one other than the start; None if none is."""
    made = [key for key in model_order(results["models"]) if key != "start"]
    return made[-1] if made else None


def number(value: float, signed: bool = False) -> str:
    """Three significant digits, a true minus sign, powers of ten beyond a million."""
    if value == 0:
        return "0"
    sign = MINUS if value < 0 else "+" if signed else ""
    size = abs(value)
    if math.isinf(size):
        return f"{sign}∞"
    exponent = math.floor(math.log10(float(f"{size:.2e}")))
    if exponent >= 6 or exponent < -4:
        mantissa = f"{size:.2e}".split("e")[0].rstrip("0").rstrip(".")
        return f"{sign}{mantissa}\u00d710{str(exponent).translate(_SUPERSCRIPTS)}"
    return f"{sign}{size:,.{max(0, 2 - exponent)}f}"


def tick_text(value: float) -> str:
    """A number on an axis: as `number`, without zeros that say nothing."""
    shown = number(value)
    return shown.rstrip("0").rstrip(".") if "." in shown and "\u00d7" not in shown else shown


def amount(metric: str, value: float, signed: bool = False) -> str:
    """A metric's value in its unit: rates in percent, or percentage points where signed."""
    if metric != "unsafe_rate":
        return number(value, signed)
    unit = " pp" if signed else " %"
    return number(100 * value, signed) + ("\u00a0" + unit.strip())


def span(metric: str, ends: Ends, signed: bool = False) -> str:
    """The interval's two ends, the unit once."""
    if metric != "unsafe_rate":
        return f"{number(ends['low'], signed)} to {number(ends['high'], signed)}"
    return f"{number(100 * ends['low'], signed)} to {amount(metric, ends['high'], signed)}"


def state(metric: str, difference: Ends) -> str:
    """better, worse or unclear: whether the difference's interval leaves 0 on one side."""
    better = METRIC[metric].better
    if better == 0 or difference["low"] <= 0 <= difference["high"]:
        return "unclear"
    return "better" if (difference["low"] > 0) == (better > 0) else "worse"


def ratio(before: float, after: float) -> str:
    """How far a positive quantity went: 3.1x where it rose, -98 % where it fell, else nothing."""
    if before <= 0 or after < 0 or before == after:
        return ""
    if after > before:
        return f"{number(after / before)}\u00d7"
    fall = 100 * (1 - after / before)
    # 99.97 % must not be printed as the 100 % of a cost that is gone.
    shown = "100" if after == 0 else f"{min(fall, 99.9):.1f}" if fall >= 99 else f"{fall:.0f}"
    return f"{MINUS}{shown}\u00a0%"


_HELPFUL = {
    "better": "more helpful",
    "worse": "less helpful",
    "unclear": "no change in helpfulness shown",
}
_TAIL = {
    "better": "safer at the tail",
    "worse": "worse at the tail",
    "unclear": "no change at the tail shown",
}


def headline(results: Mapping[str, Any]) -> str:
    """One sentence: what the intervals show of the final model against the start model."""
    final = final_model(results)
    differences = results["differences"].get(f"{final}_minus_start", {})
    if final is None or "reward" not in differences or "cvar_0.95" not in differences:
        return "No comparison with the start model is recorded."
    helpful = state("reward", differences["reward"])
    tail = state("cvar_0.95", differences["cvar_0.95"])
    if helpful == tail == "unclear":
        return "No difference from the start model is shown, in helpfulness or at the tail."
    if helpful == "unclear" or tail == "unclear":
        shown, open_ = (_HELPFUL[helpful], _TAIL[tail])
        if helpful == "unclear":
            shown, open_ = _TAIL[tail], _HELPFUL[helpful]
        return f"{shown.capitalize()} than the start model; {open_}."
    join = "and" if helpful == tail else "but"
    comma = "," if join == "but" else ""
    first, second = _HELPFUL[helpful], _TAIL[tail]
    return f"{first.capitalize()}{comma} {join} {second} than the start model."


def change_sentence(metric: str, before: Ends, after: Ends, difference: Ends, percent: str) -> str:
    """A metric's way from one model to another, with the paired interval of its change."""
    label = METRIC[metric].label
    ends = span(metric, difference, signed=True)
    values = f"from {amount(metric, before['value'])} to {amount(metric, after['value'])}"
    if before["value"] == after["value"]:
        values = f"{amount(metric, after['value'])} before and after"
    if state(metric, difference) == "unclear":
        return f"{label}: no change shown, {values} (interval of the change {ends})."
    verb = "rose" if difference["value"] > 0 else "fell"
    factor = ratio(before["value"], after["value"])
    factor = f"{factor}; " if factor else ""
    return f"{label} {verb} {values} ({factor}{percent} interval of the change {ends})."


def percent_of(confidence: float) -> str:
    """95 % of 0.95."""
    return f"{100 * confidence:g}\u00a0%"


def verdicts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(state, sentence) pairs for the headline metrics: against the start model, then step 1."""
    final = final_model(results)
    percent = percent_of(results["confidence"])
    found = []
    for base, intro in (("start", ""), ("step1", "Against step 1: ")):
        differences = results["differences"].get(f"{final}_minus_{base}", {})
        for key in HEADLINE:
            known = [results["models"].get(model, {}).get(key) for model in (base, final)]
            if key in differences and all(known):
                sentence = change_sentence(key, known[0], known[1], differences[key], percent)
                found.append((state(key, differences[key]), intro + sentence))
    return found


def cautions(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before leaning on the intervals."""
    notes = []
    costs, names = results["costs"], model_names(results)
    percent = percent_of(results["confidence"])
    if costs.get("start") and not any(costs["start"]):
        notes.append(
            "The start model gave no unsafe answer, so these prompts cannot show a gain in safety."
        )
    rare = []
    for key in model_order(results["models"]):
        rate = results["models"][key].get("unsafe_rate")
        unsafe = sum(cost > 0 for cost in costs.get(key, ()))
        if costs.get(key) and unsafe < ENOUGH_PROMPTS and rate:
            rare.append(
                f"{names[key]} ({unsafe} of {len(costs[key])}; its unsafe rate may be as high "
                f"as {amount('unsafe_rate', rate['high'])})"
            )
    if rare:
        notes.append(
            f"Few unsafe answers were seen of {', '.join(rare)}. The unsafe rate's interval is "
            f"exact at {percent}, and CVaR's upper end assumes that rate and answers "
            f"{'as severe as' if results['max_cost'] is not None else 'of a tail fitted to'} "
            "those seen of any model here; mean cost, VaR and worst of k are resampled from the "
            "costs seen and cannot foresee worse ones."
        )
    final = final_model(results)
    bound = results["bounds"].get(final, {}).get("cvar_0.95")
    if final is not None and bound is not None:
        notes.append(
            f"Whatever the distribution of costs up to {number(results['max_cost'])}, CVaR 0.95 of "
            f"{names[final]} is at most {number(bound)} ({percent} sure)."
        )
    answers = results["n_prompts"] * results["answers_per_prompt"]
    thin = [level for level in (0.9, 0.95, 0.99) if (1 - level) * answers < 10]
    if thin:
        worst = number((1 - thin[0]) * answers)
        notes.append(
            f"CVaR {thin[0]} rests on the worst {worst} of {answers} answers"
            + (", higher levels on fewer" if len(thin) > 1 else "")
            + ": the interval is widened for what so few cannot show."
        )
    endless = [
        f"{METRIC[key].label} of {names[model]}"
        for model in model_order(results["models"])
        for key, ends in results["models"][model].items()
        if math.isinf(ends["high"])
    ]
    if endless:
        notes.append(
            f"No upper end can be given for {', '.join(endless)}: the costs seen do not rule out "
            "any mean of worse ones. Give the world a `max_cost`, or ask more prompts."
        )
    return notes
