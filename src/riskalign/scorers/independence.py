"""Whether a scorer may judge a policy that other scorers trained."""

from riskalign.errors import InputError
from riskalign.scorers.causal import CausalScorer
from riskalign.scorers.embedding import EmbeddingScorer


def check_independent(
    evaluator: EmbeddingScorer | CausalScorer, *trainers: EmbeddingScorer | CausalScorer
) -> str:
    """A sentence for the report that says why the evaluator is another scorer than the trainers.

    A policy learns its own scorer's mistakes, and the same mistakes would hide them. So the
    evaluator must differ from every trainer in encoder, family or seed, and must have been trained
    on none of their prompts (compared by `text_hash`).

    Raises:
        InputError: it does not differ, or shares prompts; names which scorer and the remedy.
    """
    if not trainers:
        return "No scorer took part in training the policy."
    own = evaluator.card
    ways: list[str] = []
    for number, trainer in enumerate(trainers, start=1):
        other = trainer.card
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
    prompts = len({each for trainer in trainers for each in trainer.card.prompt_hashes})
    return (
        f"The evaluating {own.kind} scorer ({own.family}, {own.encoder}, seed {own.seed}) is "
        f"independent of the {len(trainers)} that trained the policy: it differs in "
        f"{' and '.join(ways)}, and none of its {len(own.prompt_hashes):,} training prompts is "
        f"among their {prompts:,}."
    )
