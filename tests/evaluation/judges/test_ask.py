"""What a job costs is known whatever breaks off, and stays within its limit."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from riskalign.errors import EndpointFailed, InputError
from riskalign.evaluation.judges import Client, Judging, Task
from riskalign.evaluation.judges.ask import Judge, Replies, Spent
from riskalign.evaluation.judges.client import Turn
from riskalign.evaluation.judges.prompts import Question, Verdict
from tests.evaluation.judges.conftest import Serve
from tests.evaluation.judges.stub import Does, Stub, prefers_longer, says, verdict, write_answers

#: At these prices a call costs its completion tokens, 1000 at the most.
PRICED: dict[str, Any] = {"price_out": 1e6, "max_tokens": 1000, "max_retries": 0}
QUESTIONS: list[Question] = [(Turn("user", f"Question {i}?"),) for i in range(6)]


def ask(stub: Stub, path: Path, **options: Any) -> tuple[Mapping[Question, Verdict], Spent]:
    given = PRICED | options
    judge = Judge("pairwise", stub.settings(**given), Replies(path))
    return judge.ask(QUESTIONS, stub.client(**given))


def paid(path: Path) -> int:
    """What all replies on disk cost."""
    return sum(json.loads(line)["usage"][1] for line in path.read_text().splitlines())


def test_a_first_reply_that_was_paid_counts_after_a_break(serve: Serve, tmp_path: Path) -> None:
    """Six first replies cannot be read; every second try fails but the first one's."""
    healed = False

    def breaking(body: dict[str, Any], number: int) -> Does:
        if len(body["messages"]) == 1:
            return says("Hm.", (0, 900))
        return verdict("A", (0, 700)) if healed or "Question 0?" in str(body) else Does(503)

    stub, path = serve(breaking), tmp_path / "replies.jsonl"
    for _ in range(2):
        with pytest.raises(EndpointFailed):
            ask(stub, path)
    assert paid(path) == 900 + 700 + 900  # questions 0 and 1
    judge = Judge("pairwise", stub.settings(**PRICED), Replies(path))
    kept, spent, rest = judge.kept(QUESTIONS)
    assert (len(kept), spent.calls, spent.cost) == (1, 3, 2500)
    assert rest == [(QUESTIONS[1], 1), *((question, 0) for question in QUESTIONS[2:])]
    assert judge.most_cost(QUESTIONS[1]) == 2000
    assert judge.most_cost(QUESTIONS[1], kept=1) == 1000
    healed = True
    # Room for the second try of question 1, not for both of question 2.
    verdicts, spent = ask(stub, path, max_cost=5199.0)
    assert paid(path) == spent.cost == 2500 + 700
    assert len(verdicts) == 2
    _, spent = ask(stub, path, max_cost=5200.0)
    assert paid(path) == spent.cost == 2500 + 700 + 900 + 700
    _, spent = ask(stub, path)
    assert (spent.calls, spent.cost) == (12, 6 * 1600)
    assert paid(path) == 6 * 1600


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_two_runs_in_one_folder_do_not_pay_twice(serve: Serve, tmp_path: Path) -> None:
    files = {
        name: write_answers(tmp_path / f"{name}.jsonl", {"q": [name * 3]}) for name in ("a", "bb")
    }
    judging: list[Judging] = []

    def nested(body: dict[str, Any], number: int) -> Does:
        with pytest.raises(InputError, match="another command"):
            judging[0].run(tmp_path / "out")
        return prefers_longer(body)

    stub = serve(nested)
    judging.append(Judging(Task(files, n_boot=5), stub.settings()))
    assert judging[0].run(tmp_path / "out")["spent"]["calls"] == len(stub.calls) == 2


def test_money_in_flight_counts(serve: Serve, tmp_path: Path) -> None:
    """A question may take 2000, so two at once never fit in 3999."""
    stub, path = serve(lambda *_: says("Hm.", (0, 1000))), tmp_path / "replies.jsonl"
    _, spent = ask(stub, path, max_cost=3999.0, max_concurrency=2)
    assert paid(path) == spent.cost == 2000
    _, spent = ask(stub, path, max_cost=6000.0, max_concurrency=2)
    assert paid(path) == spent.cost == 6000


def test_the_second_try_is_asked_with_the_first_reply() -> None:
    """So its prompt may be longer by a whole reply."""
    stub = Stub("http://127.0.0.1:9/v1")
    replies = Replies(Path("nowhere"))
    short, long = (
        Judge("pairwise", stub.settings(max_tokens=n, price_in=1e6), replies).most_cost(
            QUESTIONS[0]
        )
        for n in (1000, 1700)
    )
    assert long - short == 700


def test_a_failure_ends_the_waits_of_the_others(serve: Serve, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=300)

    def failing(body: dict[str, Any], number: int) -> Does:
        if number < 2:
            both.wait()  # both are asked before either is told
        return Does(503, headers={"Retry-After": "599"}) if number == 0 else Does(401)

    stub = serve(failing)
    settings = stub.settings(max_concurrency=2)
    start = time.monotonic()
    with pytest.raises(InputError, match="Check the key"):
        Judge("pairwise", settings, Replies(tmp_path / "r.jsonl")).ask(QUESTIONS, Client(settings))
    assert time.monotonic() - start < 300  # not the wait that was asked for
    assert len(stub.calls) == 2
