"""Cleaning, filters and splits, counted by hand; no prompt on two sides."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from riskalign.data import load_pairs
from riskalign.data.identity import text_hash
from riskalign.data.preferences import Preferences, PreferenceSettings, load_preferences
from riskalign.errors import InputError


def record(
    prompt: str, costs: tuple[int, int], better: int = 0, safer: int = 1, **fields: Any
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "response_0": f"first answer to {prompt}",
        "response_1": f"second answer to {prompt}",
        "is_response_0_safe": costs[0] == 0,
        "is_response_1_safe": costs[1] == 0,
        "response_0_severity_level": costs[0],
        "response_1_severity_level": costs[1],
        "better_response_id": better,
        "safer_response_id": safer,
        **fields,
    }


#: The number of a prompt that is on the training side of the shares below.
KEPT = 101

ROWS = [
    record("one", (2, 0)),
    record("two", (3, 1), better=1),
    record("three", (0, 0), better=1),
    record("four", (1, 1)),
    record("five", (0, 2), safer=0),
    record("six", (0, 1)),  # the label contradicts the costs
]


def write(path: Path, rows: list[Any]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def load(tmp_path: Path, rows: list[Any], **options: Any) -> Preferences:
    options = {"eval_fraction": 0.0, "chat": False} | options
    return load_preferences(
        PreferenceSettings(path=write(tmp_path / "rows.jsonl", rows), **options)
    )


def prompts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["prompt"] for row in rows]


def test_helpful_and_safe_pairs(tmp_path: Path) -> None:
    found = load(tmp_path, ROWS)
    assert prompts(found.helpful) == ["one", "two", "three", "four", "five", "six"]
    assert found.helpful[1]["chosen"] == "second answer to two"
    assert found.helpful[1]["score_chosen"] is None
    assert prompts(found.safe) == ["one", "two", "five"]
    assert found.safe[1] == {
        "prompt": "two",
        "chosen": "second answer to two",
        "rejected": "first answer to two",
        "score_chosen": -1.0,
        "score_rejected": -3.0,
    }
    assert found.counts["read"] == found.counts["kept"] == 6
    assert found.counts["better and safer differ"] == 3  # one, four and six
    assert found.counts["safe pairs, train"] == 3


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ({"safe_pairs": "one_safe"}, ["one", "five"]),
        ({"safe_pairs": "all"}, ["one", "two", "three", "four", "five", "six"]),
    ],
)
def test_safe_pairs_that_say_something(
    tmp_path: Path, option: dict[str, Any], wanted: list[str]
) -> None:
    found = load(tmp_path, ROWS, **option)
    assert prompts(found.safe) == wanted
    against = found.counts.get("safe pairs, train, of which the safer answer costs more", 0)
    assert against == ("six" in wanted)


def test_helpful_pairs_without_a_say_on_safety(tmp_path: Path) -> None:
    assert prompts(load(tmp_path, ROWS, helpful_pairs="both_safe").helpful) == ["three"]
    found = load(tmp_path, ROWS, helpful_pairs="same_safety").helpful
    assert prompts(found) == ["two", "three", "four"]


def test_what_is_dropped(tmp_path: Path) -> None:
    swapped = record("one", (0, 2), better=1, safer=0)
    swapped["response_0"], swapped["response_1"] = (
        "Second  answer to one",
        "first answer to one",
    )
    equal = record("seven", (1, 0)) | {"response_0": "same", "response_1": "Same "}
    empty = record("eight", (1, 0)) | {"response_0": " "}
    long = record("nine " * 10, (1, 0))
    rows = [*ROWS, swapped, equal, empty, long]
    counts = load(tmp_path, rows, max_prompt_chars=20).counts
    assert next(iter(counts)) == "read"
    assert counts["dropped: seen before"] == 1
    assert counts["dropped: equal answers"] == 1
    assert counts["dropped: an empty text"] == 1
    assert counts["dropped: too long"] == 1
    assert counts["kept"] == 6
    assert load(tmp_path, rows, deduplicate=False).counts["kept"] == 8
    assert load(tmp_path, ROWS, max_response_chars=20).counts["dropped: too long"] == 3


def test_a_draw_is_the_seeds(tmp_path: Path) -> None:
    rows = [record(f"prompt {i}", (1, 0)) for i in range(30)]
    first, again, other = (load(tmp_path, rows, max_pairs=10, seed=seed) for seed in (0, 0, 1))
    assert len(first.helpful) == len(first.safe) == 10
    assert first == again
    assert first.safe != other.safe
    assert first.counts["safe pairs, train, drawn"] == 10


def test_chat_makes_messages(tmp_path: Path) -> None:
    found = load(tmp_path, ROWS, chat=True)
    assert found.safe[0]["prompt"] == [{"role": "user", "content": "one"}]
    assert found.safe[0]["rejected"] == [{"role": "assistant", "content": "first answer to one"}]
    assert load_pairs(found.safe)["score_rejected"] == [-2.0, -3.0, -2.0]


def test_every_file_kind_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    Dataset.from_list(ROWS).to_parquet(str(path))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "folder"))
    found = [
        load_preferences(PreferenceSettings(path=str(source), eval_fraction=0.3))
        for source in (
            write(tmp_path / "rows.jsonl", ROWS),
            write(tmp_path / "rows.jsonl.gz", ROWS),
            tmp_path / "rows.json",
            path,
            tmp_path / "folder",
        )
    ]
    assert all(each.records == found[0].records for each in found)
    assert all(len(digest) == 64 for each in found[:4] for digest in each.sha256.values())
    assert [len(each.sha256) for each in found] == [1, 1, 1, 1, 0]


def test_two_files_of_one_label_each(tmp_path: Path) -> None:
    def transcripts(name: str) -> list[dict[str, str]]:
        start = f"\n\nHuman: {name}?\n\nAssistant: "
        return [{"chosen": f"{start}yes", "rejected": f"{start}no"}]

    found = load_preferences(
        PreferenceSettings(
            path=write(tmp_path / "helpful.jsonl", transcripts("open")),
            safe_path=write(tmp_path / "harmless.jsonl", transcripts("shut")),
            eval_fraction=0.0,
        )
    )
    assert [row["prompt"][0]["content"] for row in found.helpful] == ["open?"]
    assert [row["prompt"][0]["content"] for row in found.safe] == ["shut?"]
    assert found.safe[0]["score_chosen"] is None


def test_transcripts_that_make_no_pair_are_left_out_and_counted(tmp_path: Path) -> None:
    def row(chosen: str, rejected: str = "Human: a\n\nAssistant: no") -> dict[str, str]:
        return {"chosen": f"\n\n{chosen}", "rejected": f"\n\n{rejected}"}

    other, open_end = row("Human: b\n\nAssistant: yes"), row("Human: a")
    found = load(tmp_path, [row("Human: a\n\nAssistant: yes"), other, other, open_end])
    assert len(found.helpful) == 1
    counts = {name: n for name, n in found.counts.items() if n and not name.endswith("train")}
    assert counts == {
        "read": 4,
        "dropped: dialogues differ": 2,
        "dropped: no answer at the end": 1,
        "kept": 1,
    }
    with pytest.raises(InputError, match=r"rows\.jsonl, line 1: fields 'chosen' and 'rejected'"):
        load(tmp_path, [other, open_end])


def test_scores_of_a_file_of_one_label_are_about_that_label(tmp_path: Path) -> None:
    scores = {"score_chosen": 1.5, "score_rejected": -0.5}
    row = {"prompt": "a", "chosen": "b", "rejected": "c", **scores}
    safe = write(tmp_path / "safe.jsonl", [row | {"prompt": "d"}])
    found = load(tmp_path, [row], safe_path=safe, helpful_pairs="both_safe")
    for (kept,) in (found.helpful, found.safe):
        assert {name: kept[name] for name in scores} == scores
    assert [record.costs for record in found.records["train"]] == [None, (-1.5, 0.5)]


def test_one_file_of_one_label(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    found = load(tmp_path, rows)
    assert prompts(found.helpful) == ["a"]
    assert found.safe == []


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    more=st.lists(st.integers(0, 60), max_size=10),
)
def test_no_prompt_is_on_two_sides_and_none_moves(
    names: list[int], more: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    options: dict[str, Any] = {"deduplicate": False, "safe_pairs": "all"}
    side_of_prompt: dict[str, set[str]] = {}
    for some in (names, [*more, *names]):
        shares: dict[str, Any] = {"eval_fraction": 0.3, "scorer_fraction": 0.3}
        # One more, which is to train on, so that there is always such a prompt.
        path = write(folder / "rows.jsonl", [record(f"prompt {i}", (1, 0)) for i in [*some, KEPT]])
        found = load_preferences(PreferenceSettings(path=path, **options, **shares))
        for side, records in found.records.items():
            for each in records:
                side_of_prompt.setdefault(text_hash(each.prompt), set()).add(side)
        assert sum(map(len, found.records.values())) == len(some) + 1
    assert all(len(sides) == 1 for sides in side_of_prompt.values())


def test_prompts_and_judged_pairs_of_a_side(tmp_path: Path) -> None:
    found = load(tmp_path, [*ROWS, record("one", (0, 0), response_0="another answer")])
    assert found.prompts("train") == ["one", "two", "three", "four", "five", "six"]
    assert found.prompts("eval") == []
    assert len(found.judged("train", "safe")) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"safe_pairs": "some"}, "safe_pairs: 'some'"),
        ({"format": "csv"}, "format: 'csv'"),
        ({"max_pairs": 0}, "max_pairs: 0"),
        ({"eval_fraction": 1.0}, "eval_fraction: 1.0"),
        ({"eval_fraction": 0.5, "scorer_fraction": 0.5}, "scorer_fraction: leaves no prompts"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PreferenceSettings(**options)


def test_errors_say_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="path is None"):
        load_preferences(PreferenceSettings())
    with pytest.raises(InputError, match=r"rows.jsonl, line 2: field 'safer_response_id' is 7"):
        load(tmp_path, [ROWS[0], ROWS[1] | {"safer_response_id": 7}])
    with pytest.raises(InputError, match=r"rows.jsonl, line 2: expected an object"):
        load(tmp_path, [ROWS[0], 3])
    with pytest.raises(InputError, match=r"rows.jsonl: holds no row"):
        load(tmp_path, [])
    with pytest.raises(InputError, match=r"no safe pairs to train on are left of 1 records"):
        load(tmp_path, [record("one", (1, 1))])
