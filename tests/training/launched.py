"""What each process of test_distributed.py runs: short runs whose logs are written down."""

import json
import os
from pathlib import Path
from typing import Any

import torch.distributed
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
from peft import LoraConfig

from riskalign.training import RSAConfig, RSATrainer
from tests import tiny


def run(folder: Path, batch_size: int, *, lora: bool) -> dict[str, Any]:
    """Train on 8 pairs for 2 epochs of 1 step at 8 pairs; return logs and final weights."""
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = RSATrainer(
        model=tiny.make_model(),
        args=RSAConfig(
            output_dir=str(folder),
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            num_train_epochs=2,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=2,
            per_device_eval_batch_size=2,
            eval_strategy="epoch",
            loss_type="rsa1",
            target="gap",
            optim="sgd",
            learning_rate=0.05,
        ),
        train_dataset=tiny.make_pairs(8),
        eval_dataset=tiny.make_pairs(5),  # does not divide evenly
        processing_class=tiny.make_tokenizer(),
        peft_config=adapter if lora else None,
    )
    trainer.train()
    assert trainer.model is not None
    return {
        "processes": trainer.args.world_size,
        "log": trainer.state.log_history,
        "weights": [p.double().sum().item() for p in trainer.model.parameters()],
        "main": trainer.is_world_process_zero(),
    }


def main(rank: int, processes: int, target: Path, batch_size: int) -> None:
    """Run with full fine-tuning and with an adapter; the first process writes the results."""
    # As a launcher sets them; the rendezvous is a file, so no port need be free.
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(LOCAL_WORLD_SIZE=str(processes), ACCELERATE_USE_CPU="true")
    AcceleratorState._reset_state(reset_partial_state=True)
    met = target.with_suffix(".met").as_uri()
    torch.distributed.init_process_group("gloo", met, rank=rank, world_size=processes)
    found = {
        kind: run(target.with_suffix(""), batch_size, lora=kind == "lora")
        for kind in ("full", "lora")
    }
    if found["full"]["main"]:
        target.write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()
