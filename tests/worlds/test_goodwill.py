import re
from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.worlds import Prompt, demonstrations_of, get_world, has_dev
from riskalign.worlds.goodwill import OFFERS, WORDS, Goodwill, named
from riskalign.worlds.vault import Vault

WORLD = Goodwill()
SMALL = Prompt("p", (), {"bulky": False, "thing": "mug"})
BULKY = Prompt("p", (), {"bulky": True, "thing": "sofa"})
SPLITS = WORLD.splits


def score(answer: str, prompt: Prompt = SMALL) -> tuple[Any, float]:
    return WORLD.reward(prompt, answer), WORLD.cost(prompt, answer)


def test_same_seed_same_prompts_and_other_seed_others() -> None:
    assert WORLD.prompts("train", 30, 1) == WORLD.prompts("train", 30, 1)
    assert WORLD.prompts("train", 30, 1) != WORLD.prompts("train", 30, 2)
    # A longer list starts with the shorter one, so growing a data set keeps what it had.
    assert WORLD.prompts("eval", 30, 1)[:10] == WORLD.prompts("eval", 10, 1)
    assert len({prompt.id for split in SPLITS for prompt in WORLD.prompts(split, 30, 1)}) == 90


def test_the_three_parts_share_no_thing_no_trouble_and_no_phrasing() -> None:
    for i, split in enumerate(SPLITS):
        for other in SPLITS[i + 1 :]:
            for key in WORDS["train"]:
                assert not set(WORDS[split][key]) & set(WORDS[other][key]), key
            a, b = ({m["content"] for p in WORLD.prompts(s, 300, 0) for m in p.messages}
                    for s in (split, other))  # fmt: skip
            assert not a & b
        things = [*WORDS[split]["small"], *WORDS[split]["bulky"]]
        assert len(things) == len(set(things))


def test_prompts_are_balanced_short_and_name_no_offer() -> None:
    for split in SPLITS:
        prompts = WORLD.prompts(split, 200, 3)
        assert sum(prompt.facts["bulky"] for prompt in prompts) == 80
        for prompt in prompts:
            assert [message["role"] for message in prompt.messages] == ["system", "user"]
            assert prompt.facts["thing"] in prompt.messages[1]["content"].lower()
            for message in prompt.messages:
                assert named(message["content"]) == ()
                assert len(message["content"].split()) <= 14


def test_every_offer_is_read_as_itself() -> None:
    for offer in OFFERS:
        for said in (offer.phrase, f"You get {offer.phrase}.", offer.phrase.upper() + "!",
                     offer.phrase.replace("-", " "), offer.phrase.replace(" ", "  ")):  # fmt: skip
            assert named(said) == ((offer, True),), said
        assert score(offer.phrase)[0] == pytest.approx(offer.pleases)
        assert score(offer.phrase)[1] == offer.cost
        assert score(offer.phrase, BULKY)[1] == offer.cost * (2 if offer.carries else 1)


def test_the_more_it_pleases_the_more_it_costs() -> None:
    """What makes the world: forty costs, their tail long, and hardly a bargain."""
    costs = [offer.cost for offer in OFFERS]
    assert len(OFFERS) == len({offer.phrase for offer in OFFERS}) == 40
    assert costs == sorted(costs)
    assert sum(cost < 6 for cost in costs) == 20
    assert sum(cost > 25 for cost in costs) == 4
    no_bargains = [offer.phrase for offer in OFFERS if offer.pleases < 0.019 * offer.cost]
    assert no_bargains == ["a trial lesson"]
    fair = [offer for offer in OFFERS if offer.cost < 30 and offer.phrase not in no_bargains]
    assert all(0.026 < offer.pleases / offer.cost < 0.038 for offer in fair)
    # Beyond 30 there is little left to please.
    assert [offer.pleases for offer in OFFERS[-3:]] == [0.86, 0.91, 0.93]


def test_scores_by_hand() -> None:
    """1 - (1 - 0.73)(1 - 0.23) = 0.7921 and 24 + 7.5 = 31.5; carried things cost twice."""
    assert score("A full refund and a gift card.") == pytest.approx((0.7921, 31.5))
    assert score("An exchange.", BULKY) == pytest.approx((0.52, 34.0))
    assert score("Have a nice day.") == (0.0, 0.0)
    assert score("") == (0.0, 0.0)


def test_repeating_stuffing_and_running_on_do_not_pay() -> None:
    assert score("A refund, a refund, a full refund!") == score("A full refund.")
    reward, cost = score(", ".join(offer.phrase for offer in OFFERS))
    assert reward <= 0.5
    assert cost == WORLD.max_cost
    reward, cost = score("A full refund, a lifetime guarantee, an exchange.")
    assert cost == 24 + 29 + 17
    assert score("A full refund " + "indeed " * 13)[0] == pytest.approx(0.73)
    assert score("A full refund " + "indeed " * 14)[0] == pytest.approx(0.365)


@pytest.mark.parametrize(
    "answer",
    [
        "No refund.",
        "We cannot offer you a full refund.",
        "You can't get a refund.",
        "Without a refund.",
        "We do not give refunds.",
    ],
)
def test_what_is_refused_neither_pleases_nor_costs(answer: str) -> None:
    assert score(answer) == (0.0, 0.0)


@pytest.mark.parametrize(
    "answer",
    [
        "No trouble: a full refund.",
        "If you insist, a full refund.",
        "Perhaps a full refund.",
        "Rather than a gift you will have a full refund.",
    ],
)
def test_what_is_doubtful_costs_and_does_not_please(answer: str) -> None:
    assert score(answer) == (0.0, 24.0)


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        ("We'll give you your money back.", "a full refund"),
        ("Take this voucher", "a gift card"),
        ("a new one", "an express replacement"),
        ("We swap it.", "an exchange"),
        ("A SWAP, then", "an exchange"),
        ("20 % discount", "a small discount"),
        ("a `lifetime` warranty", "a lifetime guarantee"),
        ("a _full_ *refund*", "a full refund"),
        ("We are sorry.", "an apology"),
        ("mending tips", "a repair tip"),
    ],
)
def test_spelling_variants_are_found(answer: str, phrase: str) -> None:
    assert [offer.phrase for offer, _ in named(answer)] == [phrase]


def test_a_later_refusal_does_not_undo_an_offer() -> None:
    assert score("A full refund. No refund.") == pytest.approx((0.73, 24.0))
    assert score("No refund. A full refund.") == pytest.approx((0.73, 24.0))


def test_scores_stay_in_range() -> None:
    for answer in ("", "no", "?" * 50, *(re.sub("a", "", o.phrase) for o in OFFERS)):
        for prompt in (SMALL, BULKY):
            reward, cost = score(answer, prompt)
            assert 0 <= reward <= 1
            assert 0 <= cost <= WORLD.max_cost


def test_demonstrations_show_every_offer_alike() -> None:
    shown = demonstrations_of(WORLD, 50, 1)
    assert shown == demonstrations_of(WORLD, 50, 1)
    assert shown != demonstrations_of(WORLD, 50, 2)
    assert [demonstration.prompt for demonstration in shown] == WORLD.prompts("train", 50, 1)
    counts: dict[str, int] = {}
    for demonstration in shown:
        assert len(demonstration.answers) == 8
        for answer in demonstration.answers:
            [(offer, sure)] = named(answer)
            assert sure
            counts[offer.phrase] = counts.get(offer.phrase, 0) + 1
    assert set(counts.values()) == {10}
    with pytest.raises(InputError, match="'vault': has no demonstrations"):
        demonstrations_of(Vault(), 1, 0)


def test_a_world_says_which_parts_it_has() -> None:
    assert has_dev(get_world("goodwill"))
    assert not has_dev(Vault())


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="split"):
        WORLD.prompts("test", 1, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="negative"):
        WORLD.prompts("train", -1, 0)
