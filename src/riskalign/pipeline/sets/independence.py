"""Whether the scorers of an evaluation may judge its models, as far as files tell."""

from collections.abc import Mapping, Sequence

from riskalign.data.identity import text_hash
from riskalign.evaluation.sets import PromptSet
from riskalign.pipeline.learnt import prompts_of
from riskalign.scorers import Scorer, check_independent, check_unseen, load_scorer


def independence(
    scorers: Mapping[str, tuple[str, Scorer]],
    models: Mapping[str, str],
    sets: Mapping[str, PromptSet],
    trained_with: Sequence[str],
) -> list[str]:
    """Sentences for the report that say why the scorers may judge, and what is not known.

    Args:
        scorers: folder and scorer, by kind.
        models: folder or hub id, by name.
        sets: the prompts that are asked.
        trained_with: folders of scorers that took part in training the models.

    Raises:
        InputError: a scorer learnt from prompts that are asked or that a model was trained on, or
            is one of those that took part in training, or learnt from their prompts.
    """
    asked = {text_hash(list(p.messages)) for own in sets.values() for p in own.prompts}
    trained = {name: prompts_of(source) for name, source in models.items()}
    seen = {name: len(asked & prompts) for name, prompts in trained.items() if prompts}
    known_before = [
        f"Of the {len(asked):,} prompts that are asked, {n:,} are among those that {name}'s "
        "training could learn from."
        for name, n in seen.items()
        if n
    ]
    if not scorers:
        return known_before
    groups = {"are asked": asked} | {
        f"{name} was trained on": prompts for name, prompts in trained.items() if prompts
    }
    trainers = [load_scorer(folder) for folder in trained_with]
    said = known_before
    for kind, (folder, scorer) in scorers.items():
        check_unseen(f"scorer_{kind} {folder!r}", scorer.card, groups)
        if trainers:
            said.append(check_independent(scorer, *trainers))
    known = [name for name, prompts in trained.items() if prompts]
    also = (
        f", nor from one that {', '.join(known)} was trained on, as far as its folder tells"
        if known
        else ""
    )
    said.append(f"No scorer learnt from a prompt that is asked{also}.")
    unknown = [name for name in trained if name not in known]
    if unknown:
        said.append(
            f"What {', '.join(unknown)} may have learnt from is not written in the model's folder, "
            "and was not held against the scorers' prompts."
        )
    if not trainers:
        said.append("No scorer was named that took part in training (--trained_with).")
    return said
