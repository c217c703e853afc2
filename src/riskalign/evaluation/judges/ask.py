"""Ask many questions at once, each once in a lifetime, within a limit on what they may cost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign.errors import InputError
from riskalign.evaluation.judges.client import Client, QuestionRefused, Reply, Turn, request_body
from riskalign.evaluation.judges.prompts import Mode, Question, Verdict, repair, settle
from riskalign.evaluation.judges.settings import JudgeSettings


def reply_key(settings: JudgeSettings, messages: Sequence[Turn]) -> str:
    """Hex SHA-256 of everything that decides a reply: address, model, messages, settings."""
    asked = [settings.base_url.rstrip("/"), request_body(settings, messages)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Replies:
    """The replies in a file, one JSON line each, so that no call is paid for twice.

    A line that was torn by a crash, or damaged, counts as not there: that call is made again. May
    be shared by threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        raw = path.read_bytes() if path.is_file() else b""
        self._torn = bool(raw) and not raw.endswith(b"\n")
        entries = map(_entry, raw.split(b"\n"))
        self._known = dict(entry for entry in entries if entry is not None)

    def find(self, key: str) -> Reply | None:
        """The reply kept under a key."""
        return self._known.get(key)

    def keep(self, key: str, reply: Reply) -> None:
        """Keep a reply, on disk before this returns."""
        line = {"key": key, **dataclasses.asdict(reply)}
        # ASCII, since a reply may hold halves of characters, which have no UTF-8.
        raw = json.dumps(line).encode() + b"\n"
        with self._lock:
            # A torn line ends here, and spoils no other; until this one is written it may be torn.
            raw, self._torn = b"\n" + raw if self._torn else raw, True
            with self.path.open("ab") as stream:
                stream.write(raw)
            self._torn = False
            self._known[key] = reply


def _entry(line: bytes) -> tuple[str, Reply] | None:
    try:
        found: Any = json.loads(line)
        key, text, usage, refused = (found[k] for k in ("key", "text", "usage", "refused"))
        if not (isinstance(key, str) and isinstance(text, str) and isinstance(refused, bool)):
            return None
        told = None if usage is None else (int(usage[0]), int(usage[1]))
        return key, Reply(text, told, refused, found.get("too_long") is True)
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return None


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
class Judge:
    """A judge that is asked in one mode, with the replies that it has given."""

    mode: Mode
    settings: JudgeSettings
    replies: Replies

    def kept(
        self, questions: Iterable[Question]
    ) -> tuple[dict[Question, Verdict], Spent, list[tuple[Question, int]]]:
        """The verdicts that need no call, what all kept replies took, and the questions left.

        Each question left comes with the number of its replies that are kept: 1 where the first
        cannot be read and the second is missing.
        """
        verdicts: dict[Question, Verdict] = {}
        spent = Spent()
        rest: list[tuple[Question, int]] = []
        for question in dict.fromkeys(questions):
            verdict, used = settle(self.mode, question, self._find)
            if verdict is None:
                rest.append((question, len(used)))
            else:
                verdicts[question] = verdict
            spent = self._add(spent, question, used)
        return verdicts, spent, rest

    def ask(
        self,
        questions: Iterable[Question],
        client: Client,
        tell: Callable[[int, int, str], None] | None = None,
        name: Callable[[Question], str] = lambda question: "a question",
    ) -> tuple[Mapping[Question, Verdict], Spent]:
        """Settle every question, from the replies kept or by a call; verdicts and what they took.

        A question is begun only if what is spent, and the most that this one and those in flight
        may cost, stays within `max_cost`; the first that does not ends the asking. `tell` is called
        with questions settled, of how many, and a note.

        Raises:
            InputError, EndpointFailed: as `Client.ask`; calls in flight are waited for and kept.
                The message says by `name` which question was refused.
        """
        settings = self.settings
        verdicts, spent, rest = self.kept(questions)
        total = len(verdicts) + len(rest)

        def told() -> None:
            if tell is not None:
                tell(len(verdicts), total, f"cost {spent.cost:.4g}" if spent.cost else "")

        def reply_to(messages: Question) -> Reply:
            reply = self._find(messages)
            if reply is None:
                reply = client.ask(messages)
                self.replies.keep(reply_key(settings, messages), reply)
            return reply

        told()
        pending: dict[Future[tuple[Verdict | None, list[Reply]]], tuple[Question, int, float]] = {}
        pool = ThreadPoolExecutor(settings.max_concurrency, thread_name_prefix="judge")
        try:
            while rest or pending:
                while rest and len(pending) < settings.max_concurrency:
                    question, kept = rest[0]
                    most = self.most_cost(question, kept)
                    reserved = spent.cost + sum(cost for *_, cost in pending.values()) + most
                    if settings.max_cost is not None and reserved > settings.max_cost:
                        break
                    del rest[0]
                    future = pool.submit(settle, self.mode, question, reply_to)
                    pending[future] = question, kept, most
                if not pending:
                    break
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    question, kept, _ = pending.pop(future)
                    try:
                        verdict, used = future.result()
                    except QuestionRefused as refusal:
                        raise InputError(f"{name(question)}: {refusal}") from None
                    assert verdict is not None  # no reply is missing
                    verdicts[question] = verdict
                    spent = self._add(spent, question, used, kept)
                told()
        except BaseException:
            client.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return verdicts, spent

    def most_cost(self, question: Question, kept: int = 0) -> float:
        """The most that a question may still cost with `kept` replies there, a second try included.

        A token stands for at least one byte of text, but for the few that a chat template adds. It
        holds as far as the endpoint keeps to `max_tokens`.
        """
        left = self._most_in(question)[kept:]
        return self.settings.cost(sum(left), len(left) * self.settings.max_tokens)

    def _find(self, messages: Question) -> Reply | None:
        return self.replies.find(reply_key(self.settings, messages))

    def _most_in(self, question: Question) -> tuple[int, int]:
        """The most prompt tokens of the first and of the second try."""
        first, second = (
            64 + sum(16 + len(message.content.encode()) for message in messages)
            for messages in (question, repair(self.mode, question, ""))
        )
        return first, second + self.settings.max_tokens

    def _add(self, spent: Spent, question: Question, used: list[Reply], counted: int = 0) -> Spent:
        """What is spent with a question's replies, of which the first `counted` are in it."""
        tries = list(zip(used, self._most_in(question), strict=False))
        for reply, most in tries[counted:]:
            taken = reply.usage or (most, self.settings.max_tokens)
            spent = Spent(
                spent.calls + 1,
                spent.prompt_tokens + taken[0],
                spent.completion_tokens + taken[1],
                spent.without_usage + (reply.usage is None),
                spent.cost + self.settings.cost(*taken),
            )
        return spent
