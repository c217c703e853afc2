"""Jobs and comparisons killed, stopped and raced: what is resumed must be what was never stopped.

    python benchmarks/kills.py --random 100 --aimed 50 --signals 30 --races 50 --work /tmp/kills \
        --out benchmarks/results/kills.json
    python benchmarks/kills.py --only launch --workers 10 --random 6 --signals 3 --work /tmp/kills

Each trial is a command line on a tiny model, in a child of this process; it is killed (SIGKILL) at
a random moment, or at the n-th removal, rename or link, before or after it, or stopped by a signal
with a word and a code of its own, or one of its workers is killed, which it reports; then the same
command is given again. What lies in the folder at
the end is compared with an uninterrupted run's: every file's bytes (times and peaks of memory in
JSON aside), and no file more. In a race two jobs of different seeds start in one folder. What came
too late, to a command that had ended, counts for nothing: another trial takes its place.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import math
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from riskalign.cli import main as riskalign
from riskalign.files.atomic import write_text
from riskalign.files.folder import OWN
from riskalign.pipeline import machine

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.kills_jobs import recipes
from benchmarks.launcher import forked

_TIMES = {
    "created", "started", "ended", "seconds", "peak_megabytes", "worker_peak_megabytes",
    "command", "commit", "commits", "reused",
    "results.json", "report.html",  # their hashes in `finished.json`: there are times in them
}  # fmt: skip
#: What the process does to files other than writing them.
_ACTS = ("replace", "rename", "unlink", "rmdir", "link")
_TRIES = 3  # for each trial that is asked for, at most


def child(command: list[str], log: Path, before: Callable[[], None] = lambda: None) -> int:
    """Start a command in a child of this process; its process number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.argv = ["riskalign", *command]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for signum in (signal.SIGTERM, signal.SIGHUP):  # whoever started us may have ignored them
            signal.signal(signum, signal.SIG_DFL)
        before()
        try:
            riskalign()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            log.with_name("modules").write_text("\n".join(sys.modules))
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(n: int, after: bool) -> Callable[[], None]:
    """Let the process kill itself at its n-th act on files, before or after it."""

    def act(i: int, done: bool) -> None:
        if (i, done) == (n, after):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: _patch(act)


def counted(path: Path) -> Callable[[], None]:
    """Let the process note in a file how many acts there were."""

    def before() -> None:
        _patch(lambda i, done: path.write_text(str(i + 1)) if done else None)

    return before


def _patch(at: Callable[[int, bool], object]) -> None:
    n = -1

    def wrap(act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal n
            n += 1
            i = n
            at(i, False)
            found = act(*arguments, **options)
            at(i, True)
            return found

        return wrapped

    for name in _ACTS:
        setattr(os, name, wrap(getattr(os, name)))


def content(root: Path) -> dict[str, str]:
    """Each file's hash, times aside; what is ours alone (`.riskalign`) by name."""
    found = {}
    for path in sorted(p for p in root.rglob("*") if not p.is_dir()):
        name = path.relative_to(root).as_posix()
        if f"{OWN}/" in name or name.endswith(("manifest.json", ".html")):
            found[name] = ""  # of times and reuse
        elif path.suffix == ".json":
            plain = _without_times(json.loads(path.read_text()))
            found[name] = hashlib.sha256(json.dumps(plain).encode()).hexdigest()
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # the job has just removed it
        return []


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in _TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


class Bench:
    """A work folder, the commands, and what each leaves when nothing stops it."""

    def __init__(self, work: Path, seed: int, only: str | None = None) -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self.work, self.run, self.log = work, work / "run", work / "log.txt"
        found = recipes(work)
        asked = [only] if only is not None else [name for name in found if name != "launch"]
        self.commands = {name: found[name] for name in asked}
        self.draw = random.Random(seed)
        self.seconds: dict[str, float] = {}
        self.acts: dict[str, int] = {}
        self.whole: dict[str, dict[str, str]] = {}
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.fresh("warm", next(iter(self.commands.values())))
        for module in (work / "modules").read_text().split("\n"):
            # What each child would import, before they are forked; not all can be from outside.
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        for name, command in self.commands.items():
            began = time.monotonic()
            self.fresh(name, command, counted(work / "acts"))
            self.seconds[name] = time.monotonic() - began
            self.acts[name] = int((work / "acts").read_text())

    def fresh(
        self, name: str, command: list[str], before: Callable[[], None] = lambda: None
    ) -> None:
        """A run that nothing stops, as the one to compare with."""
        shutil.rmtree(self.run, ignore_errors=True)
        if code := ended(child(command, self.log, before)):
            raise SystemExit(f"{name} ended with {code}: see {self.log}")
        self.whole[name] = content(self.run)

    def compare(self, kind: str, name: str, what: str, wanted: Mapping[str, str]) -> None:
        """Count what differs from the uninterrupted run, and what is left over."""
        found = content(self.run)
        left = sorted(found.keys() - wanted.keys())
        wrong = sorted(n for n in wanted if found.get(n) != wanted[n])
        self.counts[f"{kind}: leftovers"] += bool(left)
        self.counts[f"{kind}: differences"] += bool(wrong)
        if left or wrong:
            self.problems.append(f"{kind}, {name}, {what}: left {left[:4]}, differ {wrong[:4]}")

    def resume(self, kind: str, name: str, what: str) -> None:
        """Give the command again, and compare."""
        self.counts[f"{kind}: resumes"] += 1
        if code := ended(child(self.commands[name], self.log)):
            self.counts[f"{kind}: resumes that failed"] += 1
            self.problems.append(f"{kind}, {name}, {what}: the resume ended with {code}")
        self.compare(kind, name, what, self.whole[name])

    def killed(self, kind: str, name: str, what: str, pid: int) -> bool:
        """Resume what is dead by now; False where it had ended before."""
        code = ended(pid)
        self.counts[f"{kind}: killed"] += code == -signal.SIGKILL
        self.counts[f"{kind}: killed before anything was written"] += (
            code == -signal.SIGKILL and not self.run.exists()
        )
        self.counts[f"{kind}: ended before"] += code == 0
        if code not in (0, -signal.SIGKILL):
            self.problems.append(f"{kind}, {name}, {what}: ended with {code}")
        if code:
            self.resume(kind, name, what)
        return code == -signal.SIGKILL

    def at_random(self, i: int, n: int, again: bool) -> bool:
        """A kill at a random moment."""
        name = self.start(i)
        at = self.draw.uniform(0, self.seconds[name])
        pid = child(self.commands[name], self.log)
        time.sleep(at)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.killed("random kills", name, f"{at:.2f} s", pid)

    def aimed(self, i: int, n: int, again: bool) -> bool:
        """A kill before or after an act on files; `n` are spread over all of them."""
        name = self.start(i)
        places, own = 2 * self.acts[name], -(-n // len(self.commands))
        at = (i // len(self.commands) * places // own) % places
        if again:  # there were fewer acts this time
            at = self.draw.randrange(places)
        pid = child(self.commands[name], self.log, die_at(at // 2, bool(at % 2)))
        return self.killed("aimed kills", name, f"act {at // 2}, after {bool(at % 2)}", pid)

    def stopped(self, i: int, n: int, again: bool) -> bool:
        """A signal that a command answers."""
        name = self.start(i)
        signum = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[i // len(self.commands) % 3]
        at = self.draw.uniform(0.1, 0.9) * self.seconds[name]
        pid = child(self.commands[name], self.log)
        time.sleep(at)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
        code = ended(pid)
        self.counts["signals: answered"] += code == 128 + signum
        self.counts["signals: ended before"] += code == 0
        if code not in (0, 128 + signum):
            self.problems.append(f"signals, {name}, {signum.name} at {at:.2f} s: {code}")
        if code:
            self.resume("signals", name, f"{signum.name} at {at:.2f} s")
        return code == 128 + signum

    def worker(self, i: int, n: int, again: bool) -> bool:
        """A worker of a job in two processes is killed at a random moment."""
        name = "launch"
        self.start(i)
        at = self.draw.uniform(0, self.seconds[name])
        pid = child(self.commands[name], self.log)
        time.sleep(at)
        struck, code = "none", 1
        while not (over := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            there = [int(w) for each in self.run.glob(f"{OWN}/tmp/*/pids") for w in _words(each)]
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(victim := self.draw.choice(there), signal.SIGKILL)
                struck = f"worker {there.index(victim)}"
                break
            time.sleep(0.01)
        code = ended(pid)
        in_time = struck != "none" and not over and code == 1
        self.counts["workers: killed"] += in_time
        self.counts["workers: ended before"] += code == 0
        if code not in (0, 1):
            self.problems.append(f"workers, {struck} at {at:.2f} s: the job ended with {code}")
        if code:
            self.resume("workers", name, f"{struck} at {at:.2f} s")
        return in_time

    def race(self, i: int, n: int, again: bool) -> bool:
        """Two jobs of different seeds in one folder."""
        command = self.commands["job"]
        for seed in (0, 1):
            if f"seed {seed}" not in self.whole:
                self.fresh(f"seed {seed}", [*command, "--seed", str(seed)])
        self.start(i)
        first = child([*command, "--seed", "0"], self.log)
        time.sleep(self.draw.choice([0.0, self.draw.uniform(0, 0.5 * self.seconds["job"])]))
        if os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self.counts["races: ended before"] += 1
            ended(first)
            return False
        second = child([*command, "--seed", "1"], self.log)
        codes = [ended(first), ended(second)]
        self.counts["races: run"] += 1
        self.counts["races: one refused"] += sorted(codes) == [0, 2]
        if sorted(codes) != [0, 2]:
            self.problems.append(f"races: ended with {codes}")
        else:
            self.compare("races", "job", f"{codes}", self.whole[f"seed {codes.index(0)}"])
        return True

    def start(self, i: int) -> str:
        """Empty the folder; the commands take turns."""
        shutil.rmtree(self.run, ignore_errors=True)
        return list(self.commands)[i % len(self.commands)]


def in_turn(
    asked: Mapping[str, int], attempt: Callable[[str, int, bool], bool]
) -> Iterator[dict[str, int]]:
    """Attempts of each kind, until as many as asked came in time; how many did, after each one.

    `attempt` is told how many came before, and whether this one is to replace one that did not.
    """
    came, tried = dict.fromkeys(asked, 0), dict.fromkeys(asked, 0)
    late = dict.fromkeys(asked, False)
    # In turn, so that a run that is cut short has of all kinds.
    while left := [k for k, n in asked.items() if came[k] < n and tried[k] < _TRIES * n]:
        kind = min(left, key=lambda k: (tried[k] + 0.5) / asked[k])
        in_time = attempt(kind, came[kind], late[kind])
        came[kind] += in_time
        tried[kind] += 1
        late[kind] = not in_time
        yield dict(came)


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 where anything differs or too few trials came in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("random", "aimed", "signals", "races", "workers")
    help_ = "one command, by its name in kills_jobs.py; by default all but launch, a job's workers'"
    parser.add_argument("--only", help=help_)
    for name in kinds:
        parser.add_argument(f"--{name}", type=int, default=0, help="how many trials")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start none after that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="a folder that is emptied")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    with forked():
        return _run(given, kinds, began)


def _run(given: argparse.Namespace, kinds: Sequence[str], began: float) -> int:
    bench = Bench(given.work.resolve(), given.seed, given.only)
    tries = (bench.at_random, bench.aimed, bench.stopped, bench.race, bench.worker)
    acts = dict(zip(kinds, tries, strict=True))
    asked = {name: getattr(given, name) for name in kinds}
    came = dict.fromkeys(kinds, 0)
    for came in in_turn(asked, lambda kind, i, again: acts[kind](i, asked[kind], again)):
        found = {
            "asked": asked,
            "came_in_time": came,
            "counts": dict(sorted(bench.counts.items())),
            "problems": bench.problems,
            "seconds_of_a_run": {name: round(value, 2) for name, value in bench.seconds.items()},
            "acts_on_files": bench.acts,
            "seconds": round(time.monotonic() - began),
            "versions": machine.versions(),
        }
        if given.out is not None:
            write_text(given.out, json.dumps(found, indent=1) + "\n")
        print(f"{time.monotonic() - began:.0f} s {dict(bench.counts)} {bench.problems}", flush=True)
        if time.monotonic() - began > 60 * given.minutes:
            break
    return int(bool(bench.problems) or came != asked)


if __name__ == "__main__":
    sys.exit(main())
