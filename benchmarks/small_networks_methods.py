"""Which methods and budgets small_networks.py compares."""

from typing import NamedTuple

from benchmarks.small_networks_train import Budget, Method


class Cell(NamedTuple):
    """A method at a budget on the first so many trees of each of the families.

    `key` names method and budget in the file of figures.
    """

    name: str
    method: Method
    budget: Budget
    trees: int
    families: tuple[str, ...]

    @property
    def key(self) -> str:
        """Method, answers and updates."""
        return key_of(self.name, self.budget)


def key_of(name: str, budget: Budget) -> str:
    """A cell's name in the file of figures."""
    return f"{name}|{budget.answers}|{budget.updates}"


TAIL, COST = (0.95, 0.95), (0.0, 0.0)
STANDARD = Budget()

METHODS: dict[str, Method] = {
    "SACPO, pairs of 4": Method(COST, "pairs", 4),
    "SACPO, groups of 8": Method(COST),
    "tail, pairs of 4": Method(TAIL, "pairs", 4),
    "tail, groups of 8": Method(TAIL),
    "SACPO, pairs of 8": Method(COST, "pairs"),
    "tail, pairs of 8": Method(TAIL, "pairs"),
    "tail, groups of 4": Method(TAIL, k=4),
    "RSA (rsa2, alpha 0.5), pairs of 4": Method(COST, "pairs", 4, loss="rsa2"),
    "SACPO, pairs of 16": Method(COST, "pairs", 16),
    "tail, pairs of 16": Method(TAIL, "pairs", 16),
    "RSA (rsa2, alpha 0.5), pairs of 8": Method(COST, "pairs", loss="rsa2"),
    "RSA (rsa1), pairs of 8": Method(COST, "pairs", loss="rsa1"),
    "tail, pairs of 8, ties at random": Method(TAIL, "pairs", ties="random"),
    "SACPO, pairs of 8, ties at random": Method(COST, "pairs", ties="random"),
    "tail, pairs of 8, no anchors": Method(TAIL, "pairs", anchors=0.0),
    "tail, pairs of 8, anchors 0.25": Method(TAIL, "pairs", anchors=0.25),
    "tail, pairs of 8, anchors 0.5": Method(TAIL, "pairs", anchors=0.5),
    "tail, pairs of 8, cut at 2": Method(TAIL, "pairs", max_gap=2.0),
    "tail, pairs of 8, cut at 10": Method(TAIL, "pairs", max_gap=10.0),
    "tail, pairs of 8, uncut": Method(TAIL, "pairs", max_gap=None),
    "SACPO, pairs of 8, uncut": Method(COST, "pairs", max_gap=None),
    "tail, pairs of 8, 1 round": Method(TAIL[:1], "pairs"),
    "tail, pairs of 8, 4 rounds": Method(2 * TAIL, "pairs"),
    "SACPO, pairs of 8, 1 round": Method(COST[:1], "pairs"),
    "SACPO, pairs of 8, 4 rounds": Method(2 * COST, "pairs"),
    "mean round, then tail, pairs of 8": Method((0.0, 0.95), "pairs"),
    "annealed 0.5 to 0.95 in 4, pairs of 8": Method((0.5, 0.8, 0.9, 0.95), "pairs"),
    "tail, pairs of 8, quantile of the samples": Method(TAIL, "pairs", arrival=False),
    "tail, pairs of 8, rsa2 on top (alpha 0.5)": Method(TAIL, "pairs", loss="rsa2"),
    "tail, pairs of 8, rsa2 on top (alpha 0.05)": Method(TAIL, "pairs", loss="rsa2", alpha=0.05),
    "tail, groups of 8, no anchors": Method(TAIL, anchors=0.0),
    "tail, groups of 8 of 16 that hold it": Method(TAIL, keep="tail"),
    "tail, groups of 8 of 16, weighed back": Method(TAIL, keep="weighed"),
    "SACPO, groups of 8 of 16 that hold it": Method(COST, keep="tail"),
}

#: Named first in `METHODS`: on all trees of all families; the others on the first half of two.
HEADLINE = 8
FAMILIES = ("correlated", "diffuse", "prefix")

MAIN = [
    Cell(name, method, STANDARD, *((20, FAMILIES) if number < HEADLINE else (10, FAMILIES[:2])))
    for number, (name, method) in enumerate(METHODS.items())
]

CROSSING_METHODS = (
    "SACPO, pairs of 8",
    "SACPO, groups of 8",
    "tail, pairs of 8",
    "tail, groups of 8",
    "mean round, then tail, pairs of 8",
    "annealed 0.5 to 0.95 in 4, pairs of 8",
    "RSA (rsa2, alpha 0.5), pairs of 8",
)
#: Every budget has these, the others only those of the standard number of updates.
PLAIN = CROSSING_METHODS[:4]
BUDGETS = ((1024, 200), (256, 200), (16384, 200), (4096, 50), (4096, 800))
CROSSING_TREES = 8
CROSSING = [
    Cell(
        name, METHODS[name], Budget(answers=answers, updates=updates), CROSSING_TREES, FAMILIES[:2]
    )
    for names in (PLAIN, CROSSING_METHODS[4:])
    for answers, updates in BUDGETS
    if names is PLAIN or updates == STANDARD.updates
    for name in names
]
