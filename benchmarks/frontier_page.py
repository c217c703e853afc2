"""The frontier study's table, plot and page."""

from collections.abc import Mapping
from html import escape
from typing import Any

from riskalign.evaluation.axes import Scale, element, label

Content = Mapping[str, Any]

STYLE = (
    "svg{background:#fff;font:12px system-ui,sans-serif;max-width:100%}"
    ".tick{fill:#5b6575;font-size:11px}.name{fill:#1c2330}.head{fill:#1c2330;font-weight:600}"
    ".grid{stroke:#e3e7ed}.zero{stroke:#5b6575}.bar{stroke-width:2}"
    ".good{stroke:#17734a;fill:#17734a}.bad{stroke:#b3261e;fill:#b3261e}"
    ".same{stroke:#8a93a1;fill:#8a93a1}"
)
LEFT, PANEL, ROW, TOP = 265.0, 190.0, 19.0, 46.0
RANGE = 0.2  # changes beyond are drawn at the edge


def rows_of(content: Content, family: str, **wanted: Any) -> list[Mapping[str, Any]]:
    """The figures of one family at one tail, budget and share, in the methods' order."""
    return [
        row
        for row in content["families"][family]
        if all(row[key] == value for key, value in wanted.items())
    ]


def percent(value: float) -> str:
    """A change in percent with its sign."""
    return f"{100 * value:+.1f}"


def cell(row: Mapping[str, Any], trees: int) -> str:
    """Change, interval, and the trees where the method reaches the reward, where not all."""
    if row["change"] is None:
        return f"out of reach ({row['reached']} of {trees})"
    shown = f"{percent(row['change'])} ({percent(row['low'])} to {percent(row['high'])})"
    return shown if row["reached"] == trees else f"{shown}, {row['reached']} of {trees}"


def named(row: Mapping[str, Any], content: Content) -> str:
    """A method's name, marked where it is compared with another than the study's base."""
    return str(row["method"]) + ("" if row["base"] == content["base"] else " *")


def table(
    content: Content, tail: float = 0.95, budget: float | None = 2.0, share: float = 0.9
) -> str:
    """A Markdown table: methods by families at one tail, budget and share of the reward."""
    families = list(content["families"])
    lines = [f"| method | {' | '.join(families)} |", "| --- |" + " ---: |" * len(families)]
    columns = [
        rows_of(content, family, tail=tail, budget=budget, share=share) for family in families
    ]
    for own in zip(*columns, strict=True):
        if own[0]["method"] == content["base"]:
            left = [row["base_cvar"] for row in own]
            shown = " | ".join("-" if cvar is None else f"{100 * cvar:.1f}" for cvar in left)
            lines.append(f"| {content['base']}: CVaR left | {shown} |")
        else:
            cells = " | ".join(cell(row, content["trees"]) for row in own)
            lines.append(f"| {named(own[0], content)} | {cells} |")
    return "\n".join(lines)


def plot(content: Content, tail: float, budget: float | None, share: float) -> str:
    """A panel for each family: CVaR less that of the base, with intervals."""
    families = list(content["families"])
    names = [
        named(row, content)
        for row in rows_of(content, families[0], tail=tail, budget=budget, share=share)
        if row["method"] != content["base"]
    ]
    height = TOP + ROW * len(names) + 34
    parts = [element("style", STYLE)]
    for i, name in enumerate(names):
        parts.append(
            label(LEFT - 12, TOP + ROW * (i + 0.5) + 4, name, class_="name", text_anchor="end")
        )
    for f, family in enumerate(families):
        start = LEFT + f * PANEL
        scale = Scale(-RANGE, RANGE, start + 8, start + PANEL - 16)
        bottom = TOP + ROW * len(names)
        middle = scale(0.0)
        parts.append(label(middle, 20, family, class_="head", text_anchor="middle"))
        for tick in (-0.2, -0.1, 0.0, 0.1, 0.2):
            kind = "grid" if tick else "zero"
            parts.append(
                element("line", x1=scale(tick), x2=scale(tick), y1=TOP, y2=bottom, class_=kind)
                + label(
                    scale(tick), bottom + 16, f"{100 * tick:+.0f}" if tick else "0",
                    class_="tick", text_anchor="middle",
                )
            )  # fmt: skip
        own = rows_of(content, family, tail=tail, budget=budget, share=share)
        for i, row in enumerate(row for row in own if row["method"] != content["base"]):
            y = TOP + ROW * (i + 0.5)
            if row["change"] is None:
                continue
            kind = "good" if row["high"] < 0 else "bad" if row["low"] > 0 else "same"
            parts.append(
                element(
                    "g",
                    element("title", escape(f"{row['method']}: {cell(row, content['trees'])}")),
                    element(
                        "line", x1=scale(row["low"]), x2=scale(row["high"]), y1=y, y2=y,
                        class_="bar",
                    ),
                    element("circle", cx=scale(row["change"]), cy=y, r=3.5),
                    class_=kind,
                )
            )  # fmt: skip
    budget_text = "no KL budget" if budget is None else f"KL ≤ {budget:g} nats"
    parts.append(
        label(
            LEFT, height - 4,
            f"CVaR {tail:g} of total cost less that of SACPO's optimum (*: on the finer grid), "
            "% of the reference's; "
            f"{100 * share:.0f} % of the reachable reward, {budget_text}",
            class_="tick",
        )
    )  # fmt: skip
    width = LEFT + PANEL * len(families)
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label="Change of the tail risk by method and family of trees",
    )


def render(content: Content) -> tuple[str, str]:
    """The whole page, and the plot at KL ≤ 2 nats alone."""
    first = next(iter(content["families"]))
    budgets = list(dict.fromkeys(row["budget"] for row in content["families"][first]))
    shares = list(dict.fromkeys(row["share"] for row in content["families"][first]))
    parts = []
    for tail in (0.95, 0.99):
        for share in shares:
            for budget in budgets:
                shown = "none" if budget is None else f"{budget:g} nats"
                parts.append(
                    f"<h2>CVaR {tail:g}, {100 * share:.0f} % of the reward, KL budget {shown}</h2>"
                    + plot(content, tail, budget, share)
                )
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Frontier study</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;"
        "padding:0 1rem}h2{font-size:1rem;margin-top:2rem}</style>"
        "<h1>Which form of RSA lowers tail risk</h1>"
        f"<p>{content['trees']} trees of each family, {2 * content['grid']} × {content['grid']}"
        f" values of β and λ, seed {content['seed']}. Green: better with 95 % confidence.</p>"
        + "".join(parts)
        + "</html>"
    )
    return page, plot(content, 0.95, 2.0, 0.9)
