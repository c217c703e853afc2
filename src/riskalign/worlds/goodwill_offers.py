"""The offers of the goodwill world: what each pleases, what it costs, and how it is said.

What an offer pleases goes up with what it costs, about in proportion, until it can hardly please
more (a trial lesson alone is no bargain at all). Half of the offers cost less than 6, one in ten
more than 25. A dear offer that pleased nobody would not do here: a helpful step makes it rare, so
that a safe step never sees it and, as it undoes a part of the first, lets it come back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """Something that a shop can offer.

    Attributes:
        phrase: how the demonstrations say it.
        said: a regular expression for all ways of saying it, in small letters, no hyphens.
        pleases: the customer's pleasure in it, in [0, 1].
        cost: what it costs the shop.
        carries: whether somebody must carry the goods for it.
    """

    phrase: str
    said: str
    pleases: float
    cost: float
    carries: bool = False


OFFERS = (
    Offer("a kind word", r"kind words?", 0.03, 0.8),
    Offer("an apology", r"apolog(?:y|ies|i[sz]e)|sorry", 0.04, 1.2),
    Offer("a thank-you card", r"thank you (?:card|note)s?", 0.05, 1.5),
    Offer("a sticker", r"stickers?", 0.05, 1.8),
    Offer("a repair tip", r"(?:repair|mending) (?:tip|hint)s?", 0.07, 2.0),
    Offer("a bookmark", r"book ?marks?", 0.06, 2.2),
    Offer("a care guide", r"care (?:guide|booklet)s?", 0.08, 2.5),
    Offer("a key ring", r"key ?rings?|key ?chains?", 0.08, 2.7),
    Offer("a call back", r"(?:call|phone|ring) ?(?:you )?back", 0.1, 2.9),
    Offer("a polishing cloth", r"(?:polishing )?cloths?", 0.1, 3.2),
    Offer("a free sample", r"samples?", 0.11, 3.4),
    Offer("a gift box", r"gift ?box(?:es)?", 0.1, 3.6),
    Offer("a cup of coffee", r"coffees?", 0.13, 3.9),
    Offer("a candle", r"candles?", 0.13, 4.1),
    Offer("free gift wrap", r"gift ?wrap(?:s|ping)?", 0.12, 4.4),
    Offer("a bar of chocolate", r"chocolates?", 0.15, 4.6),
    Offer("a tote bag", r"(?:tote|shopping) ?bags?|tote", 0.14, 4.9),
    Offer("a tin of biscuits", r"biscuits?|cookies?", 0.16, 5.2),
    Offer("a cleaning kit", r"cleaning (?:kit|set)s?", 0.17, 5.5),
    Offer("a bunch of flowers", r"flowers?|bouquets?", 0.2, 5.8),
    Offer("a small discount", r"discounts?|(?:some|a little) (?:money )?off", 0.21, 6.2),
    Offer("a spare part", r"spares?(?: parts?)?", 0.2, 6.6),
    Offer("a free return", r"returns?(?: label)?", 0.21, 7.0, carries=True),
    Offer("a gift card", r"gift ?cards?|vouchers?|coupons?", 0.23, 7.5),
    Offer("a courier pick-up", r"pick ?ups?|collections?|collect it", 0.24, 8.0, carries=True),
    Offer("a home visit", r"(?:home |house )?visits?", 0.26, 8.6),
    Offer("free delivery", r"deliver(?:y|ies)|shipping", 0.29, 9.2, carries=True),
    Offer("a free repair", r"repairs?|mend it|fix it", 0.31, 10.0),
    Offer("store credit", r"(?:store |shop )?credits?", 0.34, 11.0),
    Offer("a loan item", r"loan(?:er)?s?(?: items?)?", 0.36, 12.0, carries=True),
    Offer("a trial lesson", r"lessons?", 0.11, 12.5),
    Offer("a longer warranty", r"warrant(?:y|ies)", 0.41, 13.5),
    Offer("half the price back", r"half (?:of )?(?:the price|your money|price|off)", 0.47, 15.0),
    Offer("an exchange", r"exchanges?|swaps?", 0.52, 17.0, carries=True),
    Offer("an express replacement", r"replacements?|replace it|new one", 0.61, 20.0, carries=True),
    Offer("a full refund", r"refunds?|(?:your )?money back|all of the price", 0.73, 24.0),
    Offer("a site inspection", r"inspect(?:ion|ions| it)", 0.78, 26.0),
    Offer("a lifetime guarantee", r"guarantees?|(?:lifetime|life ?long) warranty", 0.86, 29.0),
    Offer("a written report", r"reports?", 0.91, 38.0),
    Offer("a newspaper notice", r"newspapers?(?: notices?)?|notices?|advert\w*", 0.93, 48.0),
)

# What holds another offer's word comes first: "a repair tip" is no repair, "half off" no discount.
_FIRST = ("a lifetime guarantee", "a repair tip", "half the price back")
_ORDER = sorted(range(len(OFFERS)), key=lambda i: OFFERS[i].phrase not in _FIRST)
_SAID = re.compile("|".join(rf"(?P<o{i}>\b(?:{OFFERS[i].said})\b)" for i in _ORDER))

# Directly before an offer they take it back, with at most an article and an adjective between.
_REFUSED = re.compile(
    r"(?:\b(?:no|not|never|without|cannot|can ?t|won ?t|don ?t|neither|nor)\b"
    r"(?: (?:be able to|able to))?(?: (?:offer|give|send|make|do|get|pay|have|promise))?(?: you)?"
    r"(?: (?:a|an|any|the|your))?(?: (?:free|full|small|express))?) $"
)
# Anywhere in the sentence before an offer they make it doubtful.
_DOUBTED = re.compile(
    r"\b(?:no|not|never|without|cannot|can ?t|won ?t|don ?t|neither|nor|if|unless|maybe|perhaps"
    r"|instead of|rather than|might)\b"
)
_SENTENCE_END = re.compile(r"[.!?;\n]")


def named(answer: str) -> list[tuple[Offer, bool]]:
    """The offers that an answer names, each once, and whether each is made without a doubt.

    Refused ones ("no refund", "we cannot offer a refund") are left out. Where a word of doubt or
    refusal stands further before the offer, it is named but not surely made: it costs, in case it
    was meant, and pleases nobody.
    """
    said = re.sub(r"[^\S\n]+", " ", re.sub(r"[-_*'’`\"]", " ", answer.lower()))
    found: dict[int, bool] = {}
    for match in _SAID.finditer(said):
        before = _SENTENCE_END.split(said[: match.start()])[-1]
        if _REFUSED.search(before):
            continue
        assert match.lastgroup is not None
        i = int(match.lastgroup[1:])
        found[i] = found.get(i, False) or not _DOUBTED.search(before)
    return [(OFFERS[i], sure) for i, sure in sorted(found.items())]
