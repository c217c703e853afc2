"""The report: complete, self-contained, and deaf to hostile text, in a real browser."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from riskalign.errors import InputError
from riskalign.evaluation.attempts import attempts_of
from riskalign.evaluation.corrected import corrected_rates
from riskalign.evaluation.page import visible
from riskalign.evaluation.report import print_results, render_report, write_report
from riskalign.evaluation.results import read_results, write_results
from riskalign.evaluation.score import ScoredAnswer
from riskalign.evaluation.wording import headline, number
from tests.evaluation.conftest import MakeResults, draw_answers, example

SECTIONS = ("headline", "distribution", "frontier", "training", "answers", "reproduce")
HOSTILE = (
    "<script>document.title='hacked'</script>"
    "<img src=x onerror=\"document.title='hacked'\">"
    "<svg onload=\"document.title='hacked'\"></svg>"
    "</div></style></title><iframe src='https://example.com/'></iframe>"
    "<a href=\"javascript:document.title='hacked'\">{{ 7*7 }}</a>\n"
    "\u202eright to left\u202c zero\u200bwidth \x00\x1b[31m \ud800 & \"quotes\" 'too'"
)


def hostile_results(make_results: MakeResults) -> dict[str, Any]:
    name = HOSTILE[:60]
    return make_results(
        answers={
            "start": draw_answers(0, reward=0.1, unsafe=0.1, severity=6, n_prompts=20),
            name: draw_answers(1, reward=0.2, unsafe=0.1, severity=6, n_prompts=20),
            "final": draw_answers(2, reward=0.3, unsafe=0.0, severity=0, n_prompts=20),
        },
        title=HOSTILE,
        model=HOSTILE,
        world=HOSTILE,
        created=HOSTILE,
        examples=[example(HOSTILE, HOSTILE * 8, "", 3.0)],
        training={HOSTILE: [{"step": 1, "loss": 1.0}]},
        settings={HOSTILE: [HOSTILE]},
        reproduce={"command": HOSTILE, "commit": HOSTILE, "versions": {HOSTILE: HOSTILE}},
        seconds={HOSTILE: 1.0},
    )


def render(tmp_path: Path, results: dict[str, Any]) -> Path:
    write_results(tmp_path / "results.json", results)
    write_report(tmp_path / "results.json", tmp_path / "report.html")
    return tmp_path / "report.html"


@pytest.fixture(scope="session")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no chromium or chrome on the PATH")


def browse(browser: str, page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the browser on a file; its log, console messages included, is in stderr."""
    return subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--virtual-time-budget=2000",
            f"--user-data-dir={page.parent / 'profile'}",
            *arguments,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def console_lines(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_browser_shows_every_section_and_runs_nothing(
    browser: str, tmp_path: Path, make_results: MakeResults
) -> None:
    page = render(tmp_path, hostile_results(make_results))
    picture = tmp_path / "report.png"
    run = browse(browser, page, "--dump-dom")
    shot = browse(browser, page, f"--screenshot={picture}", "--window-size=1280,3000")
    dom = run.stdout
    for section in SECTIONS:
        assert f'<section id="{section}"' in dom
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    assert title[1].startswith("&lt;script&gt;document.title='hacked'")
    assert "<script" not in dom
    assert "<iframe" not in dom
    assert "<img" not in dom
    assert "{{ 7*7 }}" in dom
    assert console_lines(run) == console_lines(shot) == []
    assert picture.stat().st_size > 50_000


@pytest.mark.slow
def test_the_browser_check_would_notice(browser: str, tmp_path: Path) -> None:
    """The same browser runs a script that is let in, and logs one that the policy forbids."""
    page = tmp_path / "page.html"
    script = "<script>document.title='hacked'</script>"
    page.write_text(f"<title>calm</title>{script}")
    assert "<title>hacked</title>" in browse(browser, page, "--dump-dom").stdout
    policy = re.search(r"<meta http-equiv[^>]*>", render_report_of_nothing())
    assert policy is not None
    page.write_text(f"{policy[0]}<title>calm</title>{script}<img src='https://example.com/x'>")
    run = browse(browser, page, "--dump-dom")
    assert "<title>calm</title>" in run.stdout
    assert len(console_lines(run)) >= 2


def render_report_of_nothing() -> str:
    return render_report(
        {
            "title": "t",
            "model": "m",
            "world": None,
            "created": "2026-01-01",
            "riskalign_version": "0",
            "confidence": 0.95,
            "models": {"start": {}},
            "n_prompts": 1,
            "answers_per_prompt": 1,
            **{key: {} for key in ("differences", "bounds", "costs")},
            **{key: {} for key in ("rewards", "training", "settings")},
            **{key: [] for key in ("dial", "examples")},
            "reproduce": {},
            "seconds": {},
        }
    )


def test_nothing_is_loaded_and_only_the_known_style_is_allowed(
    tmp_path: Path, make_results: MakeResults
) -> None:
    html = render(tmp_path, make_results()).read_text(encoding="utf-8")
    assert "default-src 'none'; style-src 'sha256-" in html
    assert not re.search(r"<(script|link|img|iframe|object|embed|base|form)\b", html)
    assert not re.search(r"\b(src|srcset|style|on[a-z]+|xlink:href)\s*=", html)
    assert set(re.findall(r'href="([^"]*)"', html)) == {f"#{section}" for section in SECTIONS}
    assert not re.search(r"url\(|@import", html)
    assert len(html) < 200_000


def test_everything_recorded_is_shown(tmp_path: Path, make_results: MakeResults) -> None:
    results = make_results()
    html = render(tmp_path, results).read_text(encoding="utf-8")
    for text in (
        "SmolLM2-135M aligned in the vault",
        "23 November 2026, 22:10 UTC",
        "More helpful and safer at the tail than the start model.",
        "Order 4417, two lamps, left on Tuesday.",
        "5 8 3 0\n5 8 3 0",
        "riskalign quickstart --seed 0",
        "0b8f9060c7d1",
        "lambda_: 1.0",
        "2 min 44 s",
        "4 min 57 s",
        "Helpful step",
        "Safe step",
    ):
        assert text in html, text
    rate = read_results(tmp_path / "results.json")["models"]["start"]["unsafe_rate"]["value"]
    assert f"{100 * rate:.3g}\u00a0%" in html


def test_many_attempts_are_shown_with_what_they_assume(
    tmp_path: Path, make_results: MakeResults
) -> None:
    results = make_results()
    html = render(tmp_path, results).read_text(encoding="utf-8")
    rows = results["attempts"]["start"].rows
    assert "Beta distribution over prompts" in html
    for shown in (rows[0].measured.value, rows[-1].value, rows[3].value):
        assert f"{number(100 * shown)}\u00a0%" in html
    assert "no model" not in html
    never = [ScoredAnswer(f"p{i // 2}", "", 0.0, 0.0, 0.0, 0.0, 1) for i in range(128)]
    results["attempts"]["final"] = attempts_of(never)
    html = render(tmp_path, results).read_text(encoding="utf-8")
    assert "no model: every answer was safe" in html
    assert "0 to 5.60\u00a0%" in html
    del results["attempts"]
    assert "Many attempts" not in render(tmp_path, results).read_text(encoding="utf-8")


def test_which_unsafe_rate_is_shown_is_said(tmp_path: Path, make_results: MakeResults) -> None:
    results = make_results()
    assert "Rogan" not in render(tmp_path, results).read_text(encoding="utf-8")
    found = corrected_rates(results["models"], [(45, 50), (190, 200)])
    results["corrected"] = {**found, "labels": "5-fold <cross-validation>"}
    html = render(tmp_path, results).read_text(encoding="utf-8")
    assert "All else on this page, and the first row here, is plain" in html
    assert "(5-fold &lt;cross-validation&gt;) it called 45 of 50" in html
    assert f"{100 * found['unsafe_rate']['start'].value:.3g}\u00a0%" in html
    results["corrected"] = {**corrected_rates(results["models"], [(4, 9), (5, 9)]), "labels": ""}
    html = render(tmp_path, results).read_text(encoding="utf-8")
    assert "There is no corrected rate: a scorer that calls 44.4%" in html


def test_bare_results_make_a_whole_report(tmp_path: Path, make_results: MakeResults) -> None:
    results = make_results()
    bare = {
        key: results[key]
        for key in (
            "schema",
            "created",
            "riskalign_version",
            "title",
            "model",
            "models",
            "n_prompts",
            "answers_per_prompt",
        )
    }
    bare["models"] = {"start": results["models"]["start"]}
    html = render(tmp_path, bare).read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f'<section id="{section}"' in html
    for text in ("No comparison", "No costs", "No training log", "No example", "No command"):
        assert text in html


def test_visible_shows_what_hides() -> None:
    assert visible("a\tb\r\nc") == "a\tb\nc"
    assert visible("<b>&") == "&lt;b&gt;&amp;"
    shown = str(visible("x\u202ey\x07\ud800\r"))
    assert 'title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>y' in shown
    assert ">U+0007<" in shown
    assert ">U+D800<" in shown
    assert ">U+000D<" in shown
    assert visible("naïve – 日本語 ✓") == "naïve – 日本語 ✓"


def test_broken_results_leave_no_report(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json: line 1"):
        write_report(tmp_path / "results.json", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("width", [60, 140])
def test_table_holds_values_and_intervals(
    width: int, tmp_path: Path, make_results: MakeResults
) -> None:
    write_results(tmp_path / "results.json", make_results(title="[bold]run[/nonsense]"))
    results = read_results(tmp_path / "results.json")
    out = io.StringIO()
    print_results(results, Console(file=out, width=width))
    text = out.getvalue()
    assert "[bold]run[/nonsense]" in text
    assert "Unsafe" in text
    assert "After" in text
    if width == 140:
        reward = results["models"]["final"]["reward"]
        assert f"{reward['value']:.3f}" in text
        assert f"{reward['low']:.3f} to {reward['high']:.3f}" in text
        assert "pp ✓" in text
        assert headline(results) in text


def test_table_of_one_model(tmp_path: Path, make_results: MakeResults) -> None:
    results = make_results()
    results["models"] = {"start": results["models"]["start"]}
    write_results(tmp_path / "results.json", {**results, "differences": {}})
    out = io.StringIO()
    print_results(read_results(tmp_path / "results.json"), Console(file=out, width=100))
    assert "change" not in out.getvalue()
    assert "CVaR 0.95" in out.getvalue()


def test_what_the_report_notes_is_said(tmp_path: Path, make_results: MakeResults) -> None:
    note = "Only 3 [prompts] could be asked."
    write_results(tmp_path / "results.json", {**make_results(), "notes": [note]})
    out = io.StringIO()
    print_results(read_results(tmp_path / "results.json"), Console(file=out, width=100))
    assert f"• {note}" in out.getvalue()
