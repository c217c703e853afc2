"""What each process of test_distributed.py runs: short runs whose logs and weights are kept."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
from peft import LoraConfig
from safetensors.torch import save_file

from riskalign.data import load_unpaired
from riskalign.training import RSAConfig, RSATrainer
from riskalign.training.demonstrations import demonstration_rows, train_on_demonstrations
from tests import tiny

#: Rows of a micro-batch of all processes; 13 rows leave one over, so most processes have none.
GLOBAL_BATCH = 6
PAIRS = tiny.make_pairs(13)
GROUPS = [
    {
        "prompt": pair["prompt"],
        "completions": [pair["chosen"], pair["rejected"], *([pair["chosen"]] * (i % 2))],
        "scores": [1.0 - 0.05 * i, -0.1 * i, *([0.4] * (i % 2))],
    }
    for i, pair in enumerate(PAIRS)
]
SCORED = {"loss_type": "rsa1", "target": "gap"}
KTO = {"loss_type": "kto", "beta": 0.5}
#: Data, accumulation steps and other settings.
CASES: dict[str, tuple[list[dict[str, Any]], int, dict[str, Any]]] = {
    "pairs, resumed": (PAIRS, 1, SCORED | {"save_strategy": "steps", "save_steps": 2}),
    "pairs, accumulated, LoRA": (PAIRS, 2, SCORED | {"cache_reference": "disk"}),
    "groups, split batches": (
        GROUPS,
        2,
        SCORED
        | {"shared_prompt": False, "cache_reference": "memory"}
        | {"accelerator_config": {"split_batches": True}},
    ),
    "KTO": (list(load_unpaired(PAIRS[:7]))[:13], 1, KTO | {"shared_prompt": False}),
    "KTO, accumulated": (list(load_unpaired(PAIRS[:7]))[:13], 2, KTO),
}


def settings(folder: Path, processes: int, accumulation: int) -> dict[str, Any]:
    """Of every run: two epochs, of which each leaves a batch of one row."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "num_train_epochs": 2,
        "per_device_train_batch_size": GLOBAL_BATCH // processes,
        "gradient_accumulation_steps": accumulation,
        "optim": "sgd",
        "learning_rate": 0.01,
    }


def run(folder: Path, case: str, processes: int) -> dict[str, Any]:
    """Train and evaluate on 13 rows; return logs, weights, and how often the reference ran."""
    data, accumulation, config = CASES[case]
    config = settings(folder, processes, accumulation) | config
    if "accelerator_config" in config:  # a batch is then that of all processes
        config["per_device_train_batch_size"] = GLOBAL_BATCH
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = RSATrainer(
        model=tiny.make_model(),
        ref_model=tiny.make_model(seed=3) if "KTO" in case else None,
        args=RSAConfig(
            per_device_eval_batch_size=config["per_device_train_batch_size"],
            **config,
        ),
        train_dataset=data,
        eval_dataset={"many": data, "few": data[:5]},
        processing_class=tiny.make_tokenizer(),
        peft_config=adapter if "LoRA" in case else None,
    )
    cache: Any = trainer._ref_cache
    computed: Any = []  # the batches that the reference's states were computed of
    if cache is not None:
        get = cache.get
        cache.get = lambda batch, compute: get(batch, lambda: (computed.append(0), compute())[1])
    trainer.train()
    trainer.evaluate()
    if "resumed" in case:  # from a checkpoint within the first epoch, whose end was trained on
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    return report(trainer) | {"computed": len(computed)}


def demonstrations(folder: Path, processes: int) -> dict[str, Any]:
    """The same of the start step's trainer."""
    rows = demonstration_rows(
        [pair["prompt"] for pair in PAIRS],
        [[pair["chosen"][0]["content"]] for pair in PAIRS],
        tiny.make_tokenizer(),
        256,
    )
    args = RSAConfig(**settings(folder, processes, 2), remove_unused_columns=False)
    return report(train_on_demonstrations(tiny.make_model(), tiny.make_tokenizer(), rows, args))


def report(trainer: Any) -> dict[str, Any]:
    """What is compared, in JSON but for the weights."""
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return {
        "processes": trainer.args.world_size,
        "log": trainer.state.log_history,
        "weights": weights,
    }


def runs(folder: Path, processes: int, cases: Sequence[str] = tuple(CASES)) -> dict[str, Any]:
    """Some cases, and the start step."""
    found = {case: run(folder, case, processes) for case in cases}
    return found | {"demonstrations": demonstrations(folder, processes)}


def main(rank: int, processes: int, target: Path, cases: Sequence[str]) -> None:
    """Run some cases; the first process writes the results."""
    # As a launcher sets them; the rendezvous is a file, so no port need be free.
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(LOCAL_WORLD_SIZE=str(processes), ACCELERATE_USE_CPU="true")
    AcceleratorState._reset_state(reset_partial_state=True)
    met = target.with_suffix(".met").as_uri()
    dist.init_process_group("gloo", met, rank=rank, world_size=processes)
    found = runs(target.with_suffix(""), processes, cases)
    for case, result in found.items():
        weights = result.pop("weights")
        computed: list[Any] = [None] * processes
        dist.all_gather_object(computed, result.get("computed"))
        result["computed"] = computed
        if rank == 0:
            save_file(weights, target.with_name(f"{case}.{processes}.safetensors"))
    if rank == 0:
        target.write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()
