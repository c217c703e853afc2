"""Replies kept on disk, one JSON line each, so that no call is paid for twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riskalign.evaluation.judges.client import Message, Reply, request_body
from riskalign.evaluation.judges.settings import JudgeSettings


def reply_key(settings: JudgeSettings, messages: Sequence[Message]) -> str:
    """Hex SHA-256 of everything that decides a reply: address, model, messages, settings."""
    asked = [settings.base_url.rstrip("/"), request_body(settings, messages)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Replies:
    """The replies in a file; may be shared by threads.

    A line that was torn by a crash, or damaged, counts as not there: that call is made again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[str, Reply] = {}
        self._torn = False
        if path.is_file():
            raw = path.read_bytes()
            self._torn = bool(raw) and not raw.endswith(b"\n")
            for line in raw.split(b"\n"):
                if (entry := _entry(line)) is not None:
                    self._known[entry[0]] = entry[1]

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
