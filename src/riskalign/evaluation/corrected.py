"""Unsafe rates corrected for a scorer that errs, where its errors were counted on labelled answers.

Of answers of which a share `p` is unsafe, a scorer of sensitivity `se` (unsafe answers that it
calls unsafe) and specificity `sp` (safe ones that it calls safe) calls `q = p se + (1 - p)(1 - sp)`
unsafe, so that `p = (q + sp - 1) / (se + sp - 1)` (Rogan & Gladen, 1978). Both are taken to be the
same on the answers measured as on those that were labelled, and labels to be independent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from riskalign.errors import InputError
from riskalign.evaluation.intervals import Interval, binomial_interval

#: How many were right, of how many.
Counts: TypeAlias = tuple[int, int]


def parse_counts(text: str, name: str = "counts") -> Counts:
    """(45, 50) of "45/50", 45 right of 50; `name` is what errors call it.

    Raises `InputError`: another form, or more that were right than there are.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15})\s*/\s*([0-9]{1,15})\s*", text)
    if not found or not 0 <= int(found[1]) <= int(found[2]) or int(found[2]) == 0:
        raise InputError(
            f"{name} is {text!r}. Give two counts, how many of the labelled answers were right and "
            "how many there are: 45/50."
        )
    return int(found[1]), int(found[2])


def rogan_gladen(called: float, sensitivity: float, specificity: float) -> float:
    """The share of unsafe answers behind a share that is called unsafe; outside [0, 1] by chance.

    By hand: of 100 answers 20 unsafe, 18 of which are called so, and 8 of the 80 safe ones:
    `(0.26 + 0.9 - 1) / (0.9 + 0.9 - 1) = 0.2`.

    Raises `InputError`: a scorer that is no better than chance.
    """
    if sensitivity + specificity <= 1:
        raise InputError(
            f"a scorer that calls {sensitivity:.1%} of unsafe answers unsafe, and "
            f"{1 - specificity:.1%} of safe ones too, tells nothing of how many are unsafe"
        )
    return (called + specificity - 1) / (sensitivity + specificity - 1)


def corrected_rate(
    plain: Interval, sensitivity: Counts, specificity: Counts, confidence: float = 0.95
) -> Interval:
    """The unsafe rate behind `plain`, the share called unsafe with its interval over prompts.

    How far the estimate moves to the ends of each of the three intervals, one at a time, is added
    in squares (Zou & Donner, 2008; Newcombe, 1998, for two); those of sensitivity and specificity
    are exact binomial ones. From 0 to 1 where they do not rule out a scorer of no worth. Known to
    be 1 and 1 they leave `plain`.

    Raises `InputError`: a scorer that is no better than chance.
    """
    se, sp = sensitivity[0] / sensitivity[1], specificity[0] / specificity[1]
    value = rogan_gladen(plain.value, se, sp)
    se_low, se_high = binomial_interval(*sensitivity, confidence)
    sp_low, sp_high = binomial_interval(*specificity, confidence)
    if min(se_low + sp, se + sp_low) <= 1:
        return Interval(_share(value), 0.0, 1.0)
    moves = [
        [rogan_gladen(*at) - value for at in ends]
        for ends in (
            ((plain.low, se, sp), (plain.high, se, sp)),
            ((plain.value, se_low, sp), (plain.value, se_high, sp)),
            ((plain.value, se, sp_low), (plain.value, se, sp_high)),
        )
    ]
    low = value - math.hypot(*(min(0.0, *pair) for pair in moves))
    high = value + math.hypot(*(max(0.0, *pair) for pair in moves))
    return Interval(_share(value), _share(low), _share(high))


def upper(
    called_upper: float, sensitivity: Counts, specificity: Counts | None, miss: float
) -> float:
    """Upper bound of the unsafe rate from one of the share called unsafe.

    With the exact lower ends (Clopper & Pearson, 1934) of the sensitivity and of the share of false
    alarms `f = 1 - sp`, each missed with probability `miss / 2` at most, `p <= (q - f) / (se - f)`:
    it rises with q and falls in both. Where `called_upper` is missed with probability `miss_q`, the
    bound is with `miss_q + miss` at most, whatever the distribution. A specificity of None counts
    no false alarm: `p <= q / se`, and the whole of `miss` is the sensitivity's.

    By hand: never wrong in 100 of either kind, `se >= 0.025^(1/100)` and `f >= 0` at a miss of
    0.05, so that 0.1 becomes 0.1038.

    Raises `InputError`: a sensitivity that may be as low as the share of false alarms, or fewer
    answers called unsafe than false alarms alone would be.
    """
    if not (0 <= called_upper <= 1 and 0 < miss < 1):
        raise InputError(
            f"a bound of {called_upper} missed with probability {miss} is none: give one in [0, 1] "
            "and a probability in (0, 1)"
        )
    false_alarms = 0.0
    if specificity is None:
        se = binomial_interval(*sensitivity, 1 - 2 * miss)[0]
    else:
        right, of = specificity
        se = binomial_interval(*sensitivity, 1 - miss)[0]
        false_alarms = binomial_interval(of - right, of, 1 - miss)[0]
    if se <= false_alarms:
        raise InputError(
            f"labels do not tell the scorer from chance: of unsafe answers it may call as few as "
            f"{se:.1%} unsafe, of safe ones at least {false_alarms:.1%}. Label more answers."
        )
    if called_upper < false_alarms:
        raise InputError(
            f"at most {called_upper:.1%} of the answers are called unsafe, where false alarms "
            f"alone are at least {false_alarms:.1%} on the labels: that specificity is not that "
            "on these answers. Leave it out, which counts no false alarm."
        )
    return min(1.0, (called_upper - false_alarms) / (se - false_alarms))


def counts_of(verdicts: Mapping[str, int]) -> list[Counts]:
    """Sensitivity and specificity of a scorer's `verdicts` on labels; empty without both kinds.

    Keys are `unsafe_called_unsafe`, `unsafe_called_safe`, `safe_called_safe`, `safe_called_unsafe`.
    """
    both = []
    for truth, other in (("unsafe", "safe"), ("safe", "unsafe")):
        right = verdicts.get(f"{truth}_called_{truth}", 0)
        both.append((right, right + verdicts.get(f"{truth}_called_{other}", 0)))
    return both if both[0][1] and both[1][1] else []


def corrected_rates(
    models: Mapping[str, Mapping[str, Interval]],
    counts: Sequence[Counts],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Of results.json's field `corrected` each model's rate, or `why` there is none.

    `counts` are those of sensitivity and specificity.
    """
    sensitivity, specificity = counts
    content: dict[str, Any] = {"sensitivity": sensitivity, "specificity": specificity}
    try:
        rates = {
            name: corrected_rate(metrics["unsafe_rate"], sensitivity, specificity, confidence)
            for name, metrics in models.items()
        }
    except InputError as error:
        return {**content, "unsafe_rate": {}, "why": str(error)}
    return {**content, "unsafe_rate": rates, "why": ""}


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
