"""What no engine can do is refused by name, before training; helpers of weights in parts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from torch import nn
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from riskalign import RSAConfig, RSATrainer
from riskalign.errors import InputError
from riskalign.models.sharding import plain_class, shape_of
from riskalign.training import engines
from riskalign.training.checkpoints import resumable
from tests import tiny

PARTS: dict[str, Any] = {"fsdp": True, "fsdp_config": {"version": 2}}


def settings(stage: int | None = None, tensor: int = 1, save: bool = True, **given: Any) -> Any:
    """What `check_engine` looks at, of a run in several processes on GPUs."""
    plugin = None
    if stage is not None:
        zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": save}
        config = {"zero_optimization": zero, "tensor_parallel": {"autotp_size": tensor}}
        plugin = SimpleNamespace(hf_ds_config=HfDeepSpeedConfig(config))
        unset_hf_deepspeed_config()
    state = SimpleNamespace(distributed_type=DistributedType.MULTI_GPU)
    plain = {"fsdp": False, "fsdp_config": {}, "parallelism_config": None}
    flags = dict.fromkeys(("load_best_model_at_end", "compile_layers"), False)
    every = {"distributed_state": state, "deepspeed_plugin": plugin} | plain | flags
    return SimpleNamespace(**(every | given))


def test_what_works_is_taken() -> None:
    for args in (settings(), settings(2, save=False), settings(3), settings(**PARTS)):
        engines.check_engine(args)
        engines.check_models(args, tiny.make_model(), tiny.make_model())
    assert [engines.in_parts(settings(stage)) for stage in (None, 2, 3)] == [False, False, True]


@pytest.mark.parametrize(
    ("args", "launched", "message"),
    [
        ({"fsdp": True, "fsdp_config": {"version": 1}}, "", "FSDP1"),
        ({}, "FSDP", "fsdp_version: 2"),  # whose default is 1
        (PARTS | {"distributed_state": None}, "", "accelerate launch"),
        (PARTS | {"load_best_model_at_end": True}, "", "load_best_model_at_end"),
        ({}, "MEGATRON_LM", "Megatron"),
        ({}, "PARALLELISM_CONFIG", "parallelism_config"),
        ({"stage": 3, "save": False}, "", "16bit_weights_on_model_save: true"),
        ({"stage": 1, "tensor": 2}, "", "tensor_parallel"),
    ],
)
def test_engines_are_refused(
    args: dict[str, Any], launched: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if launched:
        monkeypatch.setenv(f"ACCELERATE_USE_{launched}", "true")
    with pytest.raises(InputError, match=message):
        engines.check_engine(settings(**args))


def test_settings_are_refused_with_weights_in_parts() -> None:
    model: Any = tiny.make_model()
    with pytest.raises(InputError, match="compile_layers"):
        engines.check_models(settings(**PARTS, compile_layers=True), model, model)
    model.is_quantized = True
    with pytest.raises(InputError, match="quantised"):
        engines.check_models(settings(3), model, model)


def test_precisions_that_differ_are_said(caplog: pytest.LogCaptureFixture) -> None:
    engines.check_models(settings(), tiny.make_model(), tiny.make_model(dtype=torch.bfloat16))
    assert "counts as risk" in caplog.text


def test_one_process_is_no_place_for_parts(tmp_path: Path) -> None:
    args = RSAConfig(output_dir=str(tmp_path / "out"), use_cpu=True, fsdp=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="several processes"):
        RSATrainer(tiny.make_model(), args=args, processing_class=tiny.make_tokenizer())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("engine", "written", "message"),
    [
        (DistributedType.NO, 2, "DeepSpeed wrote"),
        (DistributedType.DEEPSPEED, 0, "other than DeepSpeed"),
        (DistributedType.DEEPSPEED, 3, "with 3 processes"),
    ],
)
def test_checkpoints_of_other_engines_are_refused(
    engine: DistributedType, written: int, message: str, tmp_path: Path
) -> None:
    for rank in range(written):
        (tmp_path / "global_step1").mkdir(exist_ok=True)
        (tmp_path / "global_step1" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=tmp_path, world_size=2),
        accelerator=SimpleNamespace(distributed_type=engine),
    )
    with pytest.raises(InputError, match=message):
        resumable(trainer, tmp_path)
    for given in (True, tmp_path / "checkpoint-9"):
        with pytest.raises(InputError, match="no checkpoint"):
            resumable(trainer, given)


def test_engine_that_runs_is_the_one_asked_for() -> None:
    runs = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, is_fsdp2=False)
    engines.settle(runs, settings())
    with pytest.raises(InputError, match="MULTI_CPU"):
        engines.settle(runs, settings(**PARTS))


def test_parts_that_are_not_finite_are_not_saved() -> None:
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda flag: flag)
    model = nn.Linear(2, 2)
    engines.check_parts(model, accelerator, "model")
    model.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="'weight'"):
        engines.check_parts(model, accelerator, "model")


def test_class_and_shape_are_those_before_the_parts() -> None:
    marker = type("FSDPModule", (), {})
    layer = nn.Linear(2, 3)
    layer.__class__ = type("FSDPLinear", (marker, nn.Linear), {})
    assert plain_class(layer) is nn.Linear is plain_class(nn.Linear(1, 1))
    empty: Any = torch.empty(0)
    assert shape_of(empty) == (0,)
    empty.ds_shape = (3, 2)
    assert shape_of(empty) == (3, 2)
