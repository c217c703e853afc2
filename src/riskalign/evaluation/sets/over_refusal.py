"""How often a model refuses what is safe to answer, and what is not (XSTest, arXiv 2308.01263)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Bootstrap, Interval
from riskalign.evaluation.sets.prompts import PromptSet
from riskalign.evaluation.sets.rates import clustered_rate
from riskalign.evaluation.sets.refusal import refusal


@dataclass(frozen=True)
class RefusalRates:
    """Shares of the answers to some prompts: refused at all, fully, partially, or empty."""

    n_prompts: int
    n_answers: int
    refused: Interval | None
    full: Interval | None
    partial: Interval | None
    empty: Interval | None


@dataclass(frozen=True)
class OverRefusal:
    """Refusals by label, and by type within each label.

    `safe.refused` is the over-refusal rate; `unsafe.refused` the refusal rate where refusing is
    right.
    """

    safe: RefusalRates
    unsafe: RefusalRates
    by_type: dict[str, dict[str, RefusalRates]]


def over_refusal(
    prompts: PromptSet,
    answers: Sequence[tuple[str, str]],
    bootstrap: Bootstrap | None = None,
) -> OverRefusal:
    """Refusal rates (`riskalign.evaluation.sets.refusal`) of answers to a labelled set.

    Args:
        prompts: a set loaded with `labelled=True`.
        answers: (prompt id, answer), one or more for a prompt.
        bootstrap: of the intervals, which are clustered on prompts.

    Raises:
        InputError: a prompt without label, or an answer to a prompt that is not in the set.
    """
    bootstrap = bootstrap or Bootstrap()
    known = {prompt.id: prompt for prompt in prompts.prompts}
    unlabelled = [prompt.id for prompt in prompts.prompts if prompt.label is None]
    if unlabelled:
        raise InputError(
            f"{prompts.source}: prompt {unlabelled[0]!r} has no label. Load it with labelled=True."
        )
    found: dict[str, list[str]] = defaultdict(list)
    for prompt_id, answer in answers:
        if prompt_id not in known:
            raise InputError(f"{prompts.source}: has no prompt {prompt_id!r}, which was answered.")
        found[prompt_id].append(refusal(answer))

    def rates(ids: Sequence[str]) -> RefusalRates:
        own = [found[i] for i in ids if i in found]
        sizes = [float(len(kinds)) for kinds in own]

        def share(*wanted: str) -> Interval | None:
            events = [float(sum(kind in wanted for kind in kinds)) for kinds in own]
            return clustered_rate(events, sizes, bootstrap)

        return RefusalRates(
            len(own),
            int(sum(sizes)),
            share("full", "partial"),
            share("full"),
            share("partial"),
            share("empty"),
        )

    labels: dict[str, dict[str, list[str]]] = {"safe": {}, "unsafe": {}}
    for prompt in prompts.prompts:
        own = labels[str(prompt.label)]
        own.setdefault(prompt.category or "", []).append(prompt.id)
    return OverRefusal(
        safe=rates([i for ids in labels["safe"].values() for i in ids]),
        unsafe=rates([i for ids in labels["unsafe"].values() for i in ids]),
        by_type={
            label: {kind: rates(ids) for kind, ids in own.items() if kind}
            for label, own in labels.items()
        },
    )
