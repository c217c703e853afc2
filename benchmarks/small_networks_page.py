"""The small networks' tables and plot: tails at matched reward, and as a ratio to SACPO's."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_networks_methods import (
    BUDGETS,
    CROSSING_METHODS,
    CROSSING_TREES,
    METHODS,
    STANDARD,
    key_of,
)
from riskalign.evaluation.axes import Frame, Scale, element, hover, label, path

Content = Mapping[str, Any]
Floats = NDArray[np.float64]

REWARD, CVAR_95, CVAR_99, KL = 0, 2, 3, 4
SHARES = (1.0, 0.9, 0.8)  # of what the helpful step won in reward
SHOWN = 0.9
MOST_KL = 1.25  # nats to the reference; the start is at about 0.75
STEPS = 100
BASES = ("SACPO, pairs of 4", "SACPO, pairs of 8", "SACPO, groups of 8")
IDEALS = ("ideal, cost", "ideal, tail")
COLOURS = ("#8a6d1f", "#5b6575", "#17734a", "#2a6fb0", "#a05fb4", "#e07b39", "#b3261e")


def at_reward(points: Floats, wanted: Floats, most_kl: float = math.inf) -> Floats:
    """The point of lowest CVaR 0.95 on a frontier's path with the reward and within the KL.

    `points` [trees, M, 5] in the order of their multipliers, `wanted` [trees]; returns [trees, 5].
    Between neighbours the tails are geometric, the rest linear, in `STEPS` steps. The start is the
    first point; where rounding leaves nothing it is taken.
    """
    values = points.copy()
    tails = slice(CVAR_95, CVAR_99 + 1)
    values[..., tails] = np.log(np.maximum(values[..., tails], 1e-9))
    part = np.linspace(0, 1, STEPS + 1)[:, None]
    ends = values[:, :-1, None], values[:, 1:, None]
    between = (ends[0] + part * (ends[1] - ends[0])).reshape(len(values), -1, values.shape[-1])
    allowed = (between[..., REWARD] >= wanted[:, None] - 1e-9) & (between[..., KL] <= most_kl)
    allowed[:, 0] |= ~allowed.any(1)
    place = np.where(allowed, between[..., CVAR_95], np.inf).argmin(1)
    best: Floats = between[np.arange(len(values)), place]
    best[:, tails] = np.exp(best[:, tails])
    return best


def matched(own: Mapping[str, Any], key: str, most_kl: float = math.inf) -> Floats:
    """Every tree's point at every share of the reward won: [trees, shares, 5]."""
    found = np.array(own[key])
    start, reference = (np.array(own[name])[: len(found)] for name in ("start", "reference"))
    path_ = np.concatenate([start[:, None], found], 1)
    low, high = reference[:, REWARD], start[:, REWARD]
    wanted = [low + share * (high - low) for share in SHARES]
    return np.stack([at_reward(path_, w, most_kl) for w in wanted], 1)


def ratio(own: Floats, base: Floats, n_boot: int = 4000) -> tuple[float, float, float]:
    """Mean over trees of `own` by that of `base` [trees], paired, and its 95 % interval."""
    base = base[: len(own)]
    draws = np.random.default_rng(0).integers(0, len(own), size=(n_boot, len(own)))
    low, high = np.quantile(own[draws].mean(1) / base[draws].mean(1), [0.025, 0.975])
    return float(own.mean() / base.mean()), float(low), float(high)


def best_base(
    own: Mapping[str, Any],
    suffix: str = key_of("", STANDARD),
    share: float = SHOWN,
    most_kl: float = math.inf,
) -> str:
    """SACPO's variant with the lowest mean CVaR 0.95 at a budget, of those computed."""
    there = [name + suffix for name in BASES if name + suffix in own]
    column = SHARES.index(share)
    least = min(len(own[key]) for key in there)

    def tail(key: str) -> float:
        return float(matched(own, key, most_kl)[:least, column, CVAR_95].mean())

    return min(there, key=tail)


def shown(found: tuple[float, float, float]) -> str:
    """A ratio and its interval."""
    return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"


def main_table(own: Mapping[str, Any]) -> list[str]:
    """One family's methods at the standard budget against SACPO's best variant at each share."""
    heads = [f"{100 * share:.0f} % of the reward" for share in SHARES]
    at = SHARES.index(SHOWN)
    at_shown = f"{100 * SHOWN:.0f} %"
    heads += [f"{at_shown}, KL ≤ {MOST_KL:g}", f"{at_shown}: CVaR 0.99"]
    last = ["CVaR 0.95", "KL", "trees"]
    lines = ["| method | " + " | ".join(heads + last) + " |", "| --- |" + " ---: |" * 8]
    bases = [best_base(own, share=share) for share in SHARES]
    against = [matched(own, base)[:, s] for s, base in enumerate(bases)]
    within = matched(own, best_base(own, share=SHOWN, most_kl=MOST_KL), MOST_KL)[:, at]
    for name in (*IDEALS, *METHODS):
        key = name if name in IDEALS else key_of(name, STANDARD)
        if key not in own:
            continue
        points = matched(own, key)
        cells = [
            shown(ratio(points[:, s, CVAR_95], base[:, CVAR_95])) for s, base in enumerate(against)
        ]
        kept = matched(own, key, MOST_KL)[:, at]
        cells.append(shown(ratio(kept[:, CVAR_95], within[:, CVAR_95])))
        cells.append(shown(ratio(points[:, at, CVAR_99], against[at][:, CVAR_99])))
        mean = points[:, at].mean(0)
        cells += [f"{mean[CVAR_95]:.3f}", f"{mean[KL]:.2f}", str(len(points))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def same_settings_table(own: Mapping[str, Any]) -> list[str]:
    """One family's tail form against SACPO with the very same settings, wherever both were run."""
    heads = [f"{100 * share:.0f} % of the reward" for share in SHARES]
    at = SHARES.index(SHOWN)
    heads += [f"{100 * SHOWN:.0f} %, KL ≤ {MOST_KL:g}", "KL, SACPO and tail", "trees"]
    lines = ["| tail form by SACPO | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * 6]
    for name in METHODS:
        rival = key_of(name.replace("tail", "SACPO", 1), STANDARD)
        if not name.startswith("tail") or key_of(name, STANDARD) not in own or rival not in own:
            continue
        trees = min(len(own[key_of(name, STANDARD)]), len(own[rival]))
        tail, base = (matched(own, key)[:trees] for key in (key_of(name, STANDARD), rival))
        cells = [shown(ratio(tail[:, s, CVAR_95], base[:, s, CVAR_95])) for s in range(len(SHARES))]
        kept = [matched(own, k, MOST_KL)[:trees, at] for k in (key_of(name, STANDARD), rival)]
        cells.append(shown(ratio(kept[0][:, CVAR_95], kept[1][:, CVAR_95])))
        cells.append(" and ".join(f"{x[:, at, KL].mean():.2f}" for x in (base, tail)))
        lines.append(f"| {name.removeprefix('tail, ')} | {' | '.join(cells)} | {trees} |")
    return lines


def crossing(own: Mapping[str, Any], name: str, budget: tuple[int, int]) -> Floats | None:
    """CVaR 0.95 at `SHOWN` of the reward at a budget (answers, updates): [`CROSSING_TREES`]."""
    key = f"{name}|{budget[0]}|{budget[1]}"
    if key not in own:
        return None
    # The first trees alone, which every budget has.
    return matched(own, key)[:CROSSING_TREES, SHARES.index(SHOWN), CVAR_95]


def axis(which: int) -> list[tuple[int, int]]:
    """Budgets that differ from the standard one in answers (0) or updates (1) alone, rising."""
    standard = (STANDARD.answers, STANDARD.updates)
    other = 1 - which
    return sorted(b for b in (*BUDGETS, standard) if b[other] == standard[other])


def crossing_table(own: Mapping[str, Any]) -> list[str]:
    """One family's methods at each budget, against SACPO's best variant there."""
    budgets = [*axis(0), *(b for b in axis(1) if b not in axis(0))]
    heads = " | ".join(f"{answers} answers, {updates} updates" for answers, updates in budgets)
    lines = [f"| method | {heads} |", "| --- |" + " ---: |" * len(budgets)]
    for name in CROSSING_METHODS:
        cells = []
        for budget in budgets:
            found = crossing(own, name, budget)
            suffix = f"|{budget[0]}|{budget[1]}"
            if found is None or not any(base + suffix in own for base in BASES):
                cells.append("-")
                continue
            base = crossing(own, best_base(own, suffix).split("|")[0], budget)
            assert base is not None
            cells.append(shown(ratio(found, base)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def table(content: Content) -> str:
    """Markdown: both tables of every family that has SACPO's figures."""
    parts = []
    for family, own in content["families"].items():
        if not any(key_of(base, STANDARD) in own for base in BASES):
            continue
        bases = ", ".join(dict.fromkeys(best_base(own, share=s).split("|")[0] for s in SHARES))
        parts += [f"**{family}, the same settings for both**", "", *same_settings_table(own), ""]
        parts += [f"**{family}** (base: {bases})", "", *main_table(own), ""]
        if family in ("correlated", "diffuse"):
            parts += [f"**{family}, by budget**", "", *crossing_table(own), ""]
    return "\n".join(parts)


def panel(own: Mapping[str, Any], which: int, frame: Frame, titles: tuple[str, str]) -> str:
    """CVaR 0.95 at matched reward against answers (0) or updates (1)."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in CROSSING_METHODS:
        for budget in axis(which):
            found = crossing(own, name, budget)
            if found is not None:
                lines.setdefault(name, []).append((budget[which], float(found.mean())))
    values = [y for points in lines.values() for _, y in points]
    if not values:
        return ""
    budgets = [b[which] for b in axis(which)]
    x = Scale(0.8 * budgets[0], 1.25 * budgets[-1], frame.left, frame.right, knee=0.0)
    y = Scale(0.9 * min(values), 1.05 * max(values), frame.bottom, frame.top)
    parts = [frame.axes(x, y, *titles)]
    for name, points in lines.items():
        colour = COLOURS[CROSSING_METHODS.index(name)]
        at = [(x(a), y(b)) for a, b in points]
        parts.append(
            element(
                "g",
                hover(f"{name}: " + ", ".join(f"{a:g}: {b:.3f}" for a, b in points)),
                path(at, fill="none", stroke=colour, stroke_width=2),
                *(element("circle", cx=a, cy=b, r=3, fill=colour) for a, b in at),
            )
        )
    return "".join(parts)


def page(content: Content) -> str:
    """The plot: a row for each family, answers on the left and updates on the right."""
    width, height, families = 380.0, 300.0, ("correlated", "diffuse")
    parts = [
        element(
            "style",
            "svg{background:#fff;font:12px system-ui,sans-serif}.tick{fill:#5b6575;font-size:11px}"
            ".axis,.name{fill:#1c2330}.grid{stroke:#e3e7ed}.frame{fill:none;stroke:#8a93a1}",
        )
    ]
    for row, family in enumerate(families):
        for which, what in enumerate(("sampled answers", "updates")):
            left, top = which * width, row * height
            frame = Frame(
                width, top + height, left + 50, top + 44, left + width - 14, top + height - 46
            )
            titles = (what, "")
            own = content["families"].get(family, {})
            parts.append(label(left + 50, top + 26, f"{family}: CVaR 0.95", class_="name"))
            parts.append(panel(own, which, frame, titles))
    top = height * len(families)
    for i, (name, colour) in enumerate(zip(CROSSING_METHODS, COLOURS, strict=True)):
        at_x, at_y = 50 + (i % 2) * width, top + 14 + 18 * (i // 2)
        parts.append(element("rect", x=at_x, y=at_y - 9, width=14, height=4, fill=colour))
        parts.append(label(at_x + 20, at_y - 3, name, class_="name"))
    height_all = top + 18 * ((len(CROSSING_METHODS) + 1) // 2) + 12
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {2 * width:g} {height_all:g}",
        role="img",
        aria_label="CVaR at matched reward by method, sampled answers and updates",
    )
