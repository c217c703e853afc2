"""Ask many questions at once, each once in a lifetime, within a limit on what they may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from riskalign.errors import InputError
from riskalign.evaluation.judges.client import Client, Message, QuestionRefused, Reply
from riskalign.evaluation.judges.prompts import Mode, repair
from riskalign.evaluation.judges.replies import Replies, reply_key
from riskalign.evaluation.judges.settings import JudgeSettings
from riskalign.evaluation.judges.verdicts import Verdict, settle

Question = tuple[Message, ...]
Tell = Callable[[int, int, str], None]  # questions settled, of how many, a note


@dataclass(frozen=True)
class Spent:
    """What all replies of a job took, those of earlier runs included.

    A reply whose endpoint told no usage counts with the most that it can have been
    (`most_cost`), and as one of `without_usage`.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Asked:
    """The verdicts by question, those missing that `max_cost` left unasked, and the cost."""

    verdicts: Mapping[Question, Verdict]
    spent: Spent


class _Missing(Exception):  # noqa: N818 - no error: the reply must be asked for
    pass


def ask_all(
    mode: Mode,
    questions: Iterable[Question],
    settings: JudgeSettings,
    replies: Replies,
    client: Client,
    tell: Tell | None = None,
    name: Callable[[Question], str] = lambda question: "a question",
) -> Asked:
    """Settle every question, from the replies kept or by the judge.

    A question is begun only if what is spent, and the most that this one and those in flight may
    cost, stays within `max_cost`; the first that does not ends the asking.

    Raises:
        InputError, EndpointFailed: as `Client.ask`; calls in flight are waited for and kept. The
            message says by `name` which question was refused.
    """
    verdicts, spent, rest = kept_verdicts(mode, questions, settings, replies)
    total = len(verdicts) + len(rest)

    def told() -> None:
        if tell is not None:
            tell(len(verdicts), total, f"cost {spent.cost:.4g}" if spent.cost else "")

    def reply_to(messages: Question) -> Reply:
        key = reply_key(settings, messages)
        found = replies.find(key)
        if found is None:
            found = client.ask(messages)
            replies.keep(key, found)
        return found

    told()
    pending: dict[Future[tuple[Verdict, list[Reply]]], tuple[Question, int, float]] = {}
    pool = ThreadPoolExecutor(settings.max_concurrency, thread_name_prefix="judge")
    try:
        while rest or pending:
            while rest and len(pending) < settings.max_concurrency:
                question, kept = rest[0]
                most = most_cost(mode, question, settings, kept)
                reserved = spent.cost + sum(cost for *_, cost in pending.values()) + most
                if settings.max_cost is not None and reserved > settings.max_cost:
                    break
                del rest[0]
                pending[pool.submit(settle, mode, question, reply_to)] = question, kept, most
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                question, kept, _ = pending.pop(future)
                try:
                    verdicts[question], used = future.result()
                except QuestionRefused as refusal:
                    raise InputError(f"{name(question)}: {refusal}") from None
                spent = _add(spent, settings, mode, question, used, kept)
            told()
    except BaseException:
        client.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return Asked(verdicts, spent)


def kept_verdicts(
    mode: Mode, questions: Iterable[Question], settings: JudgeSettings, replies: Replies
) -> tuple[dict[Question, Verdict], Spent, list[tuple[Question, int]]]:
    """The verdicts that need no call, what all kept replies took, and the questions left.

    Each question left comes with the number of its replies that are kept: 1 where the first cannot
    be read and the second is missing.
    """
    used: list[Reply] = []

    def reply_to(messages: Question) -> Reply:
        found = replies.find(reply_key(settings, messages))
        if found is None:
            raise _Missing
        used.append(found)
        return found

    verdicts: dict[Question, Verdict] = {}
    spent = Spent()
    rest: list[tuple[Question, int]] = []
    for question in dict.fromkeys(questions):
        used.clear()
        try:
            verdicts[question], _ = settle(mode, question, reply_to)
        except _Missing:
            rest.append((question, len(used)))
        spent = _add(spent, settings, mode, question, used)
    return verdicts, spent, rest


def most_cost(mode: Mode, question: Question, settings: JudgeSettings, kept: int = 0) -> float:
    """The most that a question may still cost with `kept` replies there, a second try included.

    A token stands for at least one byte of text, but for the few that a chat template adds. It
    holds as far as the endpoint keeps to `max_tokens`.
    """
    left = _most_in(mode, question, settings)[kept:]
    return settings.cost(sum(left), len(left) * settings.max_tokens)


def _most_in(mode: Mode, question: Question, settings: JudgeSettings) -> tuple[int, int]:
    """The most prompt tokens of the first and of the second try."""
    first, second = (
        64 + sum(16 + len(message.content.encode()) for message in messages)
        for messages in (question, repair(mode, question, ""))
    )
    return first, second + settings.max_tokens


def _add(
    spent: Spent,
    settings: JudgeSettings,
    mode: Mode,
    question: Question,
    used: list[Reply],
    counted: int = 0,
) -> Spent:
    """What is spent with a question's replies, of which the first `counted` are in it already."""
    tries = list(zip(used, _most_in(mode, question, settings), strict=False))
    for reply, most in tries[counted:]:
        taken = reply.usage or (most, settings.max_tokens)
        spent = Spent(
            spent.calls + 1,
            spent.prompt_tokens + taken[0],
            spent.completion_tokens + taken[1],
            spent.without_usage + (reply.usage is None),
            spent.cost + settings.cost(*taken),
        )
    return spent
