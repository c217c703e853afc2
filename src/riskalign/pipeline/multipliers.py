"""Safe steps of larger multipliers of the cost: the safe end of what a budget is tested on."""

import copy
import dataclasses

from riskalign.errors import InputError
from riskalign.pipeline.job import Job, ModelOnDisk
from riskalign.pipeline.step_data import step_rows
from riskalign.pipeline.steps import train_step


def train_multipliers(job: Job, step1: ModelOnDisk) -> dict[str, ModelOnDisk]:
    """The models of `budget.lambdas`, by name: each the job's safe steps from `step1` on again.

    Where costs are charged the same whatever the multiplier, the first step of each learns from
    the rows of the job's own; all others sample anew.

    Raises `InputError`, see `train_step`.
    """
    found: dict[str, ModelOnDisk] = {}
    for name, steps in job.config.multiplied().items():
        again = copy.copy(job)
        lambda_ = job.config.lambdas()[name]
        again.config = dataclasses.replace(job.config, lambda_=lambda_, budget=None)
        current = step1
        for step, own in steps.items():
            aim = again.config.tail_aim(step, "safe")
            shared = current is step1 and aim is None
            data = step_rows(again, step if shared else own, "safe", current, aim)
            if data is None:  # only a limit can be kept already, and it has none
                raise InputError(f"{own}: there is nothing to learn.")
            current, _ = train_step(again, own, "safe", current, data)
        found[name] = current
    return found
