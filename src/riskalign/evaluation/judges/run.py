"""A whole judging: answers matched, questions asked, `judge.json` and `verdicts.jsonl` written."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

from riskalign import __version__
from riskalign.evaluation import Bootstrap
from riskalign.evaluation.judges.answers import Conversation, match, read_answers
from riskalign.evaluation.judges.ask import Judge, Replies, Spent
from riskalign.evaluation.judges.client import Client
from riskalign.evaluation.judges.prompts import Criterion, Mode, Question, Verdict, prompts_sha256
from riskalign.evaluation.judges.results import (
    Trial,
    elo_ratings,
    judged,
    judged_win_rate,
    mean_score,
    trials,
    win_table,
)
from riskalign.evaluation.judges.settings import JudgeSettings
from riskalign.files.atomic import write_text
from riskalign.files.cache import file_sha256
from riskalign.files.folder import Outputs, hold
from riskalign.settings import Between, Count, NotLess, refuse, settings, wrong

SCHEMA = 1
_REPLIES = "replies.jsonl"
_PACKAGES = ("requests", "numpy", "scipy")
#: What `judge.json` says of the judge, beside the hash of its wording.
_TOLD = ("model", "temperature", "max_tokens", "max_tokens_field", "seed", "price_in", "price_out")
#: Bytes of text that a token stands for, roughly.
_BYTES_A_TOKEN = 4


@settings
class Task:
    """What is to be judged.

    Raises:
        InputError: a value is out of its range.
    """

    systems: Mapping[str, Path]
    """Each system's file of answers (see `answers.py`): two or more, or one in absolute mode."""
    criterion: Criterion = "helpfulness"
    mode: Mode = "pairwise"
    base: str | None = None
    """Each system is compared with this one; None compares every two."""
    prompts: Mapping[str, Conversation] = dataclasses.field(default_factory=dict)
    """What `prompt_id` stands for in files that do not tell."""
    confidence: Between = 0.95
    n_boot: Count = 2000
    """Replicates of the ratings' bootstrap."""
    seed: NotLess = 0
    """Of that bootstrap."""

    def __post_init__(self) -> None:
        """Check the values."""
        least = 2 if self.mode == "pairwise" else 1
        refuse(wrong("systems", len(self.systems) < least, f"needs at least {least} files"))
        known = self.base is None or self.base in self.systems
        refuse(wrong("base", not known, f"{self.base!r} is not a system's name"))

    @property
    def anchor(self) -> str:
        """The system whose rating is 1000: the base, else `start`, else the first."""
        return self.base or ("start" if "start" in self.systems else next(iter(self.systems)))

    def pairs(self) -> list[tuple[str, str]]:
        """The systems to compare, the anchor always second."""
        names = [self.anchor, *(name for name in self.systems if name != self.anchor)]
        if self.base is not None:
            return [(name, self.base) for name in names[1:]]
        return [(b, a) for a, b in combinations(names, 2)]


@dataclass(frozen=True)
class Forecast:
    """What a judging will take: calls, tokens and cost, before the first call is made.

    `calls` are those still to be made if no reply has to be asked for again; `kept` questions are
    settled already. `prompt_tokens` is a rough number (4 bytes of text each), `completion_tokens`
    and `cost` are what long replies would take; `most_cost` is the limit that nothing exceeds.
    """

    questions: int
    kept: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    most_cost: float


class Judging:
    """A task with its answers read and matched, which needs no network.

    Raises:
        InputError: answers that cannot be read or do not match.
    """

    def __init__(self, task: Task, settings: JudgeSettings) -> None:
        self.task = task
        self.settings = settings
        rows = {name: read_answers(path) for name, path in task.systems.items()}
        self.items = match(rows, task.prompts)
        groups = task.pairs() if task.mode == "pairwise" else [(name,) for name in task.systems]
        self._trials = trials(self.items, groups, task.criterion)
        self.questions = [question for trial in self._trials for question in trial.questions]

    def forecast(self, folder: Path) -> Forecast:
        """What is left to do, given the replies in the folder; writes nothing."""
        settings, judge = self.settings, self._judge(folder)
        kept, _, rest = judge.kept(self.questions)
        size = sum(len(message.content.encode()) for question, _ in rest for message in question)
        tokens = size // _BYTES_A_TOKEN, len(rest) * settings.max_tokens
        most = sum(judge.most_cost(question, had) for question, had in rest)
        total = len(kept) + len(rest)
        return Forecast(total, len(kept), len(rest), *tokens, settings.cost(*tokens), most)

    def run(
        self,
        folder: Path,
        *,
        client: Client | None = None,
        tell: Callable[[int, int, str], None] | None = None,
        command: str = "",
    ) -> dict[str, Any]:
        """Ask what is not known yet and write the results; the content of `judge.json`.

        Args:
            folder: gets `replies.jsonl`, a line for each call as it is answered, and at the end
                `verdicts.jsonl` and `judge.json`.
            client: by default one for the settings. A run that fails stops it for good, so the
                next run needs another.
            tell: called with questions settled, all questions, and the cost so far.
            command: for the record.

        Raises:
            InputError: a key that is missing, a folder that cannot be written or that another run
                is judging in, or an endpoint that refuses; nothing but replies is written then.
            EndpointFailed: no reply after all retries; replies so far are kept.
        """
        client = client or Client(self.settings)
        inputs = {f"answers of {name}": path for name, path in self.task.systems.items()}
        with hold(folder, Outputs([_REPLIES, "verdicts.jsonl", "judge.json"]), inputs) as held:
            held.claim(held.root / _REPLIES)
            verdicts, spent = self._judge(folder).ask(self.questions, client, tell, self._name)
            found = judged(self._trials, verdicts)
            content = self._content(found, verdicts, spent, command)
            lines = "".join(f"{json.dumps(trial.line())}\n" for trial in found)
            write_text(folder / "verdicts.jsonl", lines)
            write_text(folder / "judge.json", json.dumps(content, indent=1) + "\n")
        return content

    def _judge(self, folder: Path) -> Judge:
        return Judge(self.task.mode, self.settings, Replies(folder / _REPLIES))

    def _name(self, question: Question) -> str:
        """Whose answers to which prompt a question is about."""
        trial = next(trial for trial in self._trials if question in trial.questions)
        return f"prompt {trial.prompt_id!r}, {' against '.join(trial.systems)}"

    def _content(
        self,
        found: Sequence[Trial],
        verdicts: Mapping[Question, Verdict],
        spent: Spent,
        command: str,
    ) -> dict[str, Any]:
        task = self.task
        names = list(task.systems)
        measured: dict[str, Any]
        if task.mode == "pairwise":
            bootstrap = Bootstrap(task.n_boot, task.seed, task.confidence)
            ratings = elo_ratings(names, win_table(names, found), task.anchor, bootstrap)
            rates = [judged_win_rate(a, b, found, task.confidence) for a, b in task.pairs()]
            measured = {
                "pairs": list(map(asdict, rates)),
                "anchor": task.anchor,
                "elo": list(map(asdict, ratings)),
            }
        else:
            scores = [mean_score(name, found, task.confidence) for name in names]
            measured = {"scores": list(map(asdict, scores))}
        return {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "complete": all(question in verdicts for question in self.questions),
            "mode": task.mode,
            "criterion": task.criterion,
            "confidence": task.confidence,
            "n_prompts": len(self.items),
            **measured,
            "spent": asdict(spent),
            "judge": {
                "host": self.settings.host,
                **{name: getattr(self.settings, name) for name in _TOLD},
                "prompts_sha256": prompts_sha256(task.mode, task.criterion),
            },
            "systems": {
                name: {
                    "file": str(path),
                    "sha256": file_sha256(path),
                    "answers": sum(len(item.answers[name]) for item in self.items),
                }
                for name, path in task.systems.items()
            },
            "seed": task.seed,
            "n_boot": task.n_boot,
            "versions": {
                "riskalign": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
            },
            "command": command,
        }
