"""What every HTML page shares: one style sheet, no script, and text that hides nothing.

A page asks nothing of the network: its Content-Security-Policy forbids that and scripts, and allows
one style sheet, named by its hash. Text from models and data is hostile: it is escaped by the
template engine, and characters that could hide or reorder text are shown by their codes.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from riskalign.evaluation import wording

_HIDING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str) -> Markup:
    """Escaped text in which control, bidirectional and zero-width characters show as codes.

    Newlines and tabs stay; a carriage return that belongs to a newline is dropped.
    """
    parts = []
    for character in text.replace("\r\n", "\n"):
        if character in "\n\t" or unicodedata.category(character) not in _HIDING:
            parts.append(escape(character))
        else:
            code = f"U+{ord(character):04X}"
            name = unicodedata.name(character, "control character")
            parts.append(Markup('<span class="ctl" title="{}">{}</span>').format(name, code))
    return Markup("").join(parts)


def page(
    template: str, *, room: str = "riskalign.evaluation", style: str = "report.css", **content: Any
) -> str:
    """A template's HTML with the style sheet, its hash and the filters that every page needs.

    Template and style sheet lie in the folder `templates` of a room.
    """
    environment = Environment(
        loader=PackageLoader(room, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "moment": _moment, "duration": duration}
    assert environment.loader is not None
    css = environment.loader.get_source(environment, style)[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    html = environment.get_template(template).render(
        css=Markup(css), css_hash=digest, w=wording, **content
    )
    # A lone surrogate outside the shown texts (a prompt id, a setting) cannot be written as UTF-8.
    return html.encode("utf-8", errors="replace").decode("utf-8")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as YAML, for a page; empty where there are none."""
    shown = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=88)
    return shown.strip() if settings else ""


def _moment(created: str) -> Markup:
    """The time of creation as people write it, or as recorded where it is not ISO 8601."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return visible(created)
    zone = moment.tzname() or ""
    return visible(f"{moment.day} {moment:%B %Y, %H:%M} {zone}".strip())


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.2 s, 2 min 04 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
