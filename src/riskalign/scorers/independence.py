"""Whether a scorer may judge a policy that other scorers trained."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from riskalign.errors import InputError
from riskalign.scorers.card import Card
from riskalign.scorers.loading import Scorer


def check_independent(evaluator: Scorer, trainer: Scorer, *others: Scorer) -> str:
    """A sentence for the report that says why the evaluator is another scorer than the trainers.

    A policy learns its own scorer's mistakes, and the same mistakes would hide them. So the
    evaluator must differ from every trainer in encoder, family or seed, and must have been trained
    on none of their prompts (compared by `text_hash`).

    Raises:
        InputError: it does not differ, or shares prompts; names which scorer and the remedy.
    """
    trainers = (trainer, *others)
    own = evaluator.card
    ways: list[str] = []
    for number, other in enumerate((one.card for one in trainers), start=1):
        name = f"scorer {number} that trained the policy ({other.kind}, {other.encoder})"
        differs = [
            word
            for word, same in (
                ("encoder", own.encoder_sha256 == other.encoder_sha256),
                ("family", own.family == other.family),
                ("seed", own.seed == other.seed),
            )
            if not same
        ]
        if not differs:
            raise InputError(
                f"the evaluating scorer has the same encoder, family and seed ({own.seed}) as "
                f"{name}. Train it with another seed, encoder or family, on other prompts."
            )
        if shared := len(set(own.prompt_hashes) & set(other.prompt_hashes)):
            raise InputError(
                f"the evaluating scorer was trained on {shared} prompt(s) of {name}. Train the "
                "two on parts that share none: `riskalign score train --half a` and `--half b`."
            )
        ways += [word for word in differs if word not in ways]
    prompts = len({each for one in trainers for each in one.card.prompt_hashes})
    return (
        f"The evaluating {own.kind} scorer ({own.family}, {own.encoder}, seed {own.seed}) is "
        f"independent of the {len(trainers)} that trained the policy: it differs in "
        f"{' and '.join(ways)}, and none of its {len(own.prompt_hashes):,} training prompts is "
        f"among their {prompts:,}."
    )


def check_unseen(name: str, card: Card, groups: Mapping[str, AbstractSet[str]]) -> None:
    """Refuse a scorer that learnt from prompts on which it would judge.

    Args:
        name: of the setting that names the scorer, and its folder, for the error.
        card: the scorer's.
        groups: `text_hash`es of prompts by what they are, to follow "the prompts that".

    Raises:
        InputError: it learnt from a prompt of a group; names how many and the remedy.
    """
    for what, prompts in groups.items():
        if shared := len(prompts & set(card.prompt_hashes)):
            raise InputError(
                f"{name}: learnt from {shared} of the prompts that {what}, and would not "
                "notice what it got wrong there. Give a scorer that was trained on others."
            )
