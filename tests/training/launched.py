"""What `accelerate launch` runs in test_distributed.py: short runs whose logs are written down.

Arguments: where to write, and the batch size of one process.
"""

import json
import sys
from pathlib import Path
from typing import Any

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


def main() -> None:
    """Run with full fine-tuning and with an adapter; the first process writes the results."""
    target, batch_size = Path(sys.argv[1]), int(sys.argv[2])
    found = {
        kind: run(target.with_suffix(""), batch_size, lora=kind == "lora")
        for kind in ("full", "lora")
    }
    if found["full"]["main"]:
        target.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
