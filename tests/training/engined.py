"""What each process of test_engines.py runs: short runs, in one engine after the other."""

import importlib
import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from peft import LoraConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from riskalign.training import RSAConfig, RSATrainer
from tests import tiny

LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    # The other processes get their weights from the first.
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


@dataclass
class Case:
    """A run in an engine: of what kind a model, what differs from the plain settings.

    `loaded`: the model is given by its folder. `resume`: the run to resume, after its first step.
    `evaluate`: before training. `launched`: FSDP2 is asked for as `accelerate launch` does.
    """

    engine: str
    kind: str = "full"
    name: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    zero: dict[str, Any] = field(default_factory=dict)
    loaded: bool = False
    resume: str | None = None
    evaluate: bool = False
    launched: bool = False

    def folder(self, under: Path) -> Path:
        return under / "-".join((self.engine, self.kind, self.name))


def _engine(case: Case) -> dict[str, Any]:
    """The settings of the case's engine."""
    if case.launched:
        os.environ.update(LAUNCHED)
        return {}
    if case.engine == "fsdp":
        sharded = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}
        return {"fsdp": True, "fsdp_config": sharded}
    if not case.engine.startswith("zero"):
        return {}
    zero = {
        "stage": int(case.engine[4:]),
        "stage3_param_persistence_threshold": 0,  # everything in parts, however small
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    names = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    auto = dict.fromkeys(names, "auto")
    bf16 = {"bf16": {"enabled": "auto"}}
    # DeepSpeed's own optimizer for offloaded states would be compiled first.
    own = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return {"deepspeed": {**auto, **bf16, **own, "zero_optimization": zero | case.zero}}


def adapter(kind: str) -> LoraConfig | None:
    if kind not in ("lora", "head"):
        return None
    return LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj", "down_proj"],
        task_type="CAUSAL_LM",
        modules_to_save=["lm_head"] if kind == "head" else None,
    )


def run(case: Case, under: Path, batch_size: int) -> dict[str, Any]:
    """Train for two steps on 8 pairs, and save; return what was logged, and what ran."""
    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()  # of the run before
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_USE_", "FSDP_"))]:
        del os.environ[name]
    settings: dict[str, Any] = {
        "output_dir": str(case.folder(under)),
        "use_cpu": True,
        "disable_tqdm": True,
        "log_level": "error",
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": 2,
        "loss_type": "rsa2",
        "target": "gap",
        "learning_rate": 0.02,
        "adam_epsilon": 0.1,  # else rounding decides on the sign of small steps
    }
    # Made before the settings, a model is whole; loaded after them, ZeRO-3 parts it at once.
    model: Any = tiny.make_model(tie_word_embeddings=case.kind == "tied")
    trainer = RSATrainer(
        args=RSAConfig(**(settings | _engine(case) | case.args)),
        model=str(under / "model") if case.loaded else model,
        train_dataset=tiny.make_pairs(8),
        eval_dataset=tiny.make_pairs(2),
        processing_class=tiny.make_tokenizer(),
        peft_config=adapter(case.kind),
    )
    evaluated = trainer.evaluate()["eval_logps/chosen"] if case.evaluate else None
    trainer.train(case.resume and str(under / case.resume / "checkpoint-1"))
    trainer.save_model(str(case.folder(under) / "saved"))
    reference = trainer.reference.model
    parts: list[Any] = [] if reference is None else list(reference.parameters())
    return {
        "log": trainer.state.log_history,
        "engine": type(trainer.model_wrapped).__name__,
        "reference in parts": all(hasattr(p, "ds_id") or hasattr(p, "placements") for p in parts),
        "evaluated": evaluated,
    }


def main(rank: int, processes: int, target: Path, cases: list[Case]) -> None:
    """Run the cases one after the other; the first process writes down what was logged."""
    warnings.simplefilter("ignore")
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(LOCAL_WORLD_SIZE=str(processes), DS_ACCELERATOR="cpu")
    met = target.with_suffix(".met").as_uri()
    torch.distributed.init_process_group("gloo", met, rank=rank, world_size=processes)
    # It would compile a program for messages among processes, for minutes.
    messages: Any = importlib.import_module("deepspeed.comm.torch")
    messages.build_shm_op = lambda: None
    backend, device = PartialState._prepare_backend, PartialState.set_device
    found = {}
    for case in cases:
        PartialState._prepare_backend, PartialState.set_device = backend, device
        if case.engine == "fsdp":
            # accelerate falls back to DDP on a processor; it takes any GPU's name at its word.
            PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_XPU)
            PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
        found[case.folder(Path()).name] = run(case, target.parent, 1)
    if rank == 0:
        target.write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()
