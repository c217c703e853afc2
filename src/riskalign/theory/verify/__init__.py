"""Every claim of docs/theory.md, checked by computation on random trees."""

from riskalign.theory.verify.claim import Claim, Finding, Setting
from riskalign.theory.verify.runner import CLAIMS, check, print_findings, render, run, to_json

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
