"""Every claim of docs/theory.md, checked by computation on random trees."""

from riskalign.verify.claim import Claim, Finding, Setting
from riskalign.verify.runner import CLAIMS, check, run
from riskalign.verify.show import print_findings, render, to_json

__all__ = [
    "CLAIMS",
    "Claim",
    "Finding",
    "Setting",
    "check",
    "print_findings",
    "render",
    "run",
    "to_json",
]
