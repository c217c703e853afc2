"""Checks the claims, some at a time."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

import torch

from riskalign.errors import InputError
from riskalign.theory.verify import (
    answer_claims,
    dial_claims,
    loss_claims,
    risk_claims,
    step_claims,
    value_claims,
)
from riskalign.theory.verify.claim import Claim, Finding, Setting

CLAIMS: tuple[Claim, ...] = (
    *risk_claims.CLAIMS,
    *value_claims.CLAIMS,
    *loss_claims.CLAIMS,
    *step_claims.CLAIMS,
    *dial_claims.CLAIMS,
    *answer_claims.CLAIMS,
)

Tell = Callable[[int, str], None]  # claims done before, and the one that is done now


def check(claim: Claim, setting: Setting) -> Finding:
    """Check one claim; a figure that is not a number passes no bound."""
    began = time.perf_counter()
    by_case = claim.check(setting)
    figures = list(by_case.values())
    if any(math.isnan(figure) for figure in figures):
        figure = math.nan
    else:
        figure = min(figures) if claim.bound == "at least" else max(figures)
    if claim.bound == "at most":
        passed = figure <= claim.tolerance
    elif claim.bound == "at least":
        passed = figure >= claim.tolerance
    else:
        passed = math.isfinite(figure)
    return Finding(
        claim.key,
        claim.group,
        claim.statement,
        claim.bound,
        claim.tolerance,
        figure,
        by_case,
        passed,
        time.perf_counter() - began,
    )


def run(
    setting: Setting,
    claims: Sequence[Claim] = CLAIMS,
    tell: Tell | None = None,
    processes: int = 1,
) -> list[Finding]:
    """Check all claims, `processes` at a time; findings are in the claims' order.

    Raises `InputError` for fewer than four trees.
    """
    if setting.trees < 4:
        raise InputError(f"trees: {setting.trees} is fewer than 4, one of each family. Give 50.")
    findings: list[Finding] = []
    threads = torch.get_num_threads()
    try:
        with contextlib.ExitStack() as stack:
            each: Iterable[Finding]
            if processes == 1:
                _one_thread()
                each = map(check, claims, repeat(setting))
            else:
                # Fresh processes: a copy of one in which torch has threads can hang.
                context = get_context("spawn")
                pool = ProcessPoolExecutor(processes, context, initializer=_one_thread)
                each = stack.enter_context(pool).map(check, claims, repeat(setting))
            for finding in each:
                if tell:
                    tell(len(findings), finding.statement)
                findings.append(finding)
    finally:
        torch.set_num_threads(threads)
    return findings


def _one_thread() -> None:
    torch.set_num_threads(1)  # the trees' tensors are small: a second thread only costs
