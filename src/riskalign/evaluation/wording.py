"""Names, number formats and verdicts shared by the report and the terminal table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from riskalign.evaluation.intervals import ENOUGH_PROMPTS
from riskalign.evaluation.metrics import METRICS, TAIL_LEVELS, Metric

Ends = Mapping[str, float]  # an interval as results.json holds it: value, low, high
MINUS = "\u2212"
HEADLINE = ("reward", "unsafe_rate", "cvar_0.95")

_MODEL_NAMES = {"start": "Start model", "step1": "After step 1", "final": "Final model"}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def metrics_of(results: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics of a results.json or compare.json: `METRICS`, and those of a user's own."""
    own = [Metric(**words, measure=lambda sample: None) for words in results.get("metrics", ())]
    return {**METRICS, **{metric.key: metric for metric in own}}


def model_names(results: Mapping[str, Any]) -> dict[str, str]:
    """The display name of each model of results.json; the last one's is its method's."""
    names = {key: _MODEL_NAMES.get(key, key) for key in results["models"]}
    for key in names:
        kind, dash, w = key.partition("-")
        if kind == "merge" and dash:
            names[key] = f"Weights at {w}"
    chosen = {"certified": "Certified", "baked": "Baked, certified"}
    names |= {key: name for key, name in chosen.items() if key in names}
    return names | ({"final": results["method"]} if "final" in names and results["method"] else {})


def model_order(models: Mapping[str, Any]) -> list[str]:
    """Keys of the models in the order they were made, unknown ones before the last."""
    others = [key for key in models if key not in _MODEL_NAMES]
    return [key for key in ("start", "step1", *others, "final") if key in models]


def final_model(results: Mapping[str, Any]) -> str | None:
    """The model that the report is about: the last one other than the start; None if none is."""
    made = [key for key in model_order(results["models"]) if key != "start"]
    return made[-1] if made else None


def changes(results: Mapping[str, Any], base: str = "start") -> Mapping[str, Ends]:
    """The metrics of the final model less those of another; empty where they are not recorded."""
    found: Mapping[str, Ends] = results["differences"].get(f"{final_model(results)}_minus_{base}")
    return found or {}


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


def amount(metric: Metric, value: float, signed: bool = False) -> str:
    """A metric's value in its unit: shares in percent, or percentage points where signed."""
    if metric.unit != "share":
        return number(value, signed)
    return f"{number(100 * value, signed)}\u00a0{'pp' if signed else '%'}"


def span(metric: Metric, ends: Ends, signed: bool = False) -> str:
    """The interval's two ends, the unit once."""
    low = 100 * ends["low"] if metric.unit == "share" else ends["low"]
    return f"{number(low, signed)} to {amount(metric, ends['high'], signed)}"


def lines(metric: Metric, ends: Ends, signed: bool = False) -> tuple[str, str]:
    """A value and, for the line below it, its interval."""
    return amount(metric, ends["value"], signed), span(metric, ends, signed)


def state(metric: Metric, difference: Ends) -> str:
    """better, worse or unclear: whether the difference's interval leaves 0 on one side."""
    if metric.better == 0 or difference["low"] <= 0 <= difference["high"]:
        return "unclear"
    return "better" if (difference["low"] > 0) == (metric.better > 0) else "worse"


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


#: What the headline says where a metric is better, worse or unclear.
_STATES = ("better", "worse", "unclear")
_SAID = {
    "reward": ("more helpful", "less helpful", "no change in helpfulness shown"),
    "cvar_0.95": ("safer at the tail", "worse at the tail", "no change at the tail shown"),
}


def headline(results: Mapping[str, Any]) -> str:
    """One sentence: what the intervals show of the final model against the start model."""
    differences = changes(results)
    if not _SAID.keys() <= differences.keys():
        return "No comparison with the start model is recorded."
    states = {key: state(METRICS[key], differences[key]) for key in _SAID}
    said = {key: _SAID[key][_STATES.index(states[key])] for key in _SAID}
    shown = [said[key] for key in said if states[key] != "unclear"]
    if not shown:
        return "No difference from the start model is shown, in helpfulness or at the tail."
    if len(shown) == 1:
        [unclear] = [said[key] for key in said if states[key] == "unclear"]
        return f"{shown[0].capitalize()} than the start model; {unclear}."
    join = " and" if len(set(states.values())) == 1 else ", but"
    return f"{shown[0].capitalize()}{join} {shown[1]} than the start model."


def change_sentence(
    metric: Metric, before: Ends, after: Ends, difference: Ends, percent: str
) -> str:
    """A metric's way from one model to another, with the paired interval of its change."""
    ends = span(metric, difference, signed=True)
    values = f"from {amount(metric, before['value'])} to {amount(metric, after['value'])}"
    if before["value"] == after["value"]:
        values = f"{amount(metric, after['value'])} before and after"
    if state(metric, difference) == "unclear":
        return f"{metric.label}: no change shown, {values} (interval of the change {ends})."
    verb = "rose" if difference["value"] > 0 else "fell"
    factor = ratio(before["value"], after["value"])
    factor = f"{factor}; " if factor else ""
    return f"{metric.label} {verb} {values} ({factor}{percent} interval of the change {ends})."


def percent_of(confidence: float) -> str:
    """95 % of 0.95."""
    return f"{100 * confidence:g}\u00a0%"


def verdicts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(state, sentence) pairs for the headline metrics: against the start model, then step 1."""
    models, percent = results["models"], percent_of(results["confidence"])
    after = models.get(final_model(results), {})
    found = []
    for base, intro in (("start", ""), ("step1", "Against step 1: ")):
        before, differences = models.get(base, {}), changes(results, base)
        for key in HEADLINE:
            if key in differences and key in before and key in after:
                metric, change = METRICS[key], differences[key]
                sentence = change_sentence(metric, before[key], after[key], change, percent)
                found.append((state(metric, change), intro + sentence))
    return found


def cautions(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before leaning on the intervals."""
    notes = []
    models, costs, names = results["models"], results["costs"], model_names(results)
    percent = percent_of(results["confidence"])
    if costs.get("start") and not any(costs["start"]):
        notes.append(
            "The start model gave no unsafe answer, so these prompts cannot show a gain in safety."
        )
    rare = []
    for key in model_order(models):
        rate, own = models[key].get("unsafe_rate"), costs.get(key, ())
        unsafe = sum(cost > 0 for cost in own)
        if own and unsafe < ENOUGH_PROMPTS and rate:
            high = amount(METRICS["unsafe_rate"], rate["high"])
            rare.append(
                f"{names[key]} ({unsafe} of {len(own)}; its unsafe rate may be as high as {high})"
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
    thin = [level for level in TAIL_LEVELS if (1 - level) * answers < 10]
    if thin:
        notes.append(
            f"CVaR {thin[0]} rests on the worst {number((1 - thin[0]) * answers)} of {answers} "
            f"answers{', higher levels on fewer' if len(thin) > 1 else ''}: the interval is "
            "widened for what so few cannot show."
        )
    labels = {key: metric.label for key, metric in metrics_of(results).items()}
    endless = [
        f"{labels.get(key, key)} of {names[model]}"
        for model in model_order(models)
        for key, ends in models[model].items()
        if math.isinf(ends["high"])
    ]
    if endless:
        notes.append(
            f"No upper end can be given for {', '.join(endless)}: the costs seen do not rule out "
            "any mean of worse ones. Give the world a `max_cost`, or ask more prompts."
        )
    return notes


def limit_words(limit: Mapping[str, Any]) -> str:
    """A limit as one reads it: CVaR 0.95 ≤ 2."""
    risk = {"mean": "mean cost", "unsafe_rate": "unsafe rate"}.get(limit["risk"], limit["risk"])
    risk = risk.replace("cvar:", "CVaR ")
    of = "" if limit["category"] is None else f" of {limit['category']}"
    return f"{risk}{of} ≤ {number(limit['limit'])}"


def certified_words(certificate: Mapping[str, Any]) -> list[str]:
    """What a certificate says, on which assumptions; or what would be needed for one."""
    limits = " and ".join(limit_words(limit) for limit in certificate["limits"])
    sure, tests = percent_of(certificate["confidence"]), certificate["tests"]
    if certificate["certified"] is not None:
        words = f"Certified: {certificate['certified']} keeps {limits}, with {sure} confidence"
        return [f"{words} by the bound {certificate['bound']}.", _assumed(certificate)]
    first = tests[0]["setting"]
    own = [test for test in tests if test["setting"] == first and not test["passed"]]
    bounds = " and ".join(
        f"{limit_words({**test, 'limit': test['bound']})} (limit {number(test['limit'])})"
        for test in own
    )
    needed, asked = certificate["prompts_needed"], max(test["prompts"] for test in own)
    if needed is not None:
        more = f"About {needed:,} prompts like these would show it ({asked:,} were asked)."
    elif any(test["estimate"] >= test["limit"] for test in own):
        more = "Its own answers break the limit: a safer setting is needed, not more prompts."
    else:
        more = "Its estimate is too near the limit for any number of prompts that one would ask."
    return [
        f"Not certified: no setting surely keeps {limits}, with {sure} confidence.",
        f"The safest, {first}, is only shown to have {bounds}. {more}",
        _assumed(certificate),
    ]


def _assumed(certificate: Mapping[str, Any]) -> str:
    return (
        f"It holds for every distribution of costs where {'; '.join(certificate['assumptions'])}."
    )
