"""The group `launch`: what accelerate is told, and what is refused before any work."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.launch import (  # type: ignore[import-untyped]
    _validate_launch_command,
    launch_command_parser,
)

from riskalign.errors import FieldError, InputError
from riskalign.pipeline import load_config
from riskalign.pipeline.cells import cell_key
from riskalign.pipeline.given import JobData, read_data
from riskalign.pipeline.job import Job
from riskalign.pipeline.launch import LaunchConfig
from riskalign.pipeline.parse import load_settings

Make = Callable[..., dict[str, Any]]
TWO: dict[str, Any] = {"machines": 2, "main_process_ip": "10.0.0.1", "main_process_port": 29500}


def written(folder: Path, **fields: Any) -> str:
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump({"distributed_type": "FSDP", "num_processes": 4, **fields}))
    return str(path)


def told(launch: LaunchConfig, folder: Path, rank: int = 0) -> Any:
    """What accelerate makes of the command."""
    command = launch.resolved().command(folder, rank)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    found, *_ = _validate_launch_command(launch_command_parser().parse_args(command[3:]))
    assert (found.module, found.training_script) == (True, "riskalign.pipeline.worker")
    assert found.training_script_args == [str(folder)]
    return found


def test_two_processes_are_started_by_torchrun_on_any_device(tmp_path: Path) -> None:
    found = told(LaunchConfig(processes=2), tmp_path)
    assert (found.multi_gpu, found.num_processes, found.num_machines) == (True, 2, 1)
    assert (found.use_fsdp, found.use_deepspeed, found.main_process_port) == (False, False, 0)
    assert found.mixed_precision == "no"


def test_a_users_file_fills_what_is_not_given(tmp_path: Path) -> None:
    file = written(tmp_path, fsdp_config={"fsdp_version": 2}, main_process_port=29501)
    launch = LaunchConfig(config_file=file)
    assert launch.resolved()[:2] == (4, 1)
    found = told(launch, tmp_path)
    assert (found.use_fsdp, found.fsdp_version, found.num_processes) == (True, 2, 4)
    assert found.main_process_port == 29501
    other = told(LaunchConfig(config_file=file, processes=2), tmp_path)
    assert (other.use_fsdp, other.num_processes) == (True, 2)
    on_cpus = LaunchConfig(config_file=written(tmp_path, distributed_type="MULTI_CPU"))
    assert told(on_cpus, tmp_path).multi_gpu, "or mpirun would be needed"


def test_what_a_training_depends_on_has_no_addresses(tmp_path: Path) -> None:
    alone = LaunchConfig(processes=4, config_file=written(tmp_path)).resolved().identity()
    moved = LaunchConfig(config_file=written(tmp_path, main_process_port=1)).resolved().identity()
    assert alone == moved
    changed = LaunchConfig(config_file=written(tmp_path, fsdp_config={"fsdp_version": 2}))
    assert changed.resolved().identity() != alone


def test_what_deepspeed_is_told_in_a_file_counts(job: Make, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    named = {"deepspeed_config": {"deepspeed_config_file": str(file)}}
    found = []
    for stage in (2, 3):
        file.write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
        plain = written(tmp_path, distributed_type="DEEPSPEED", **named)
        launch = LaunchConfig(config_file=plain)
        step = load_config(job(), {"launch.processes": 2, "safe.deepspeed": str(file)}).safe
        config = load_config(job(), {"launch.config_file": plain, "helpful.deepspeed": str(file)})
        key = cell_key(config, JobData(), "weights")
        found.append((launch.resolved().identity(), step.engine_contents(), key))
    for one, other in zip(*found, strict=True):
        assert one != other
    over = LaunchConfig(config_file=plain, **TWO)
    assert told(over, tmp_path).deepspeed_multinode_launcher == "standard"
    file.unlink()
    with pytest.raises(FieldError, match=r"config_file: .*ds.json' is no file"):
        LaunchConfig(config_file=plain)


def test_the_lines_for_other_machines(tmp_path: Path) -> None:
    launch = LaunchConfig(processes=4, **TWO)
    line, slurm = launch.resolved().elsewhere(tmp_path)
    assert line.startswith("machine 1: ")
    assert "--machine_rank 1 --main_process_ip 10.0.0.1 --main_process_port 29500" in line
    assert "srun --nodes=1 --ntasks=1" in slurm
    assert "$((SLURM_NODEID + 1))" in slurm
    assert told(launch, tmp_path, 1).machine_rank == 1
    assert LaunchConfig(processes=4).resolved().elsewhere(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, "processes: is null"),
        ({"processes": 0}, "processes"),
        ({"processes": 3, **TWO}, "processes: 3 cannot be split evenly over 2 machines"),
        ({"processes": 2, "machines": 2}, "main_process_ip: is needed for 2 machines"),
        ({"processes": 2, **TWO, "main_process_port": 0}, "main_process_port: is needed"),
        ({"config_file": "nowhere.yaml"}, "config_file: 'nowhere.yaml' is no file"),
        ({"num_processes": 2}, "num_processes: no such field; did you mean 'processes'"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(FieldError, match=names):
        load_settings(LaunchConfig, [f"{name}={value}" for name, value in fields.items()])


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"unknown": 1}, "unknown keys"),
        ({"parallelism_config": {"parallelism_config_tp_size": 2}}, "has a parallelism_config"),
        ({"distributed_type": "XLA"}, "distributed_type XLA is none of"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "set compile_layers"),
        ({"compute_environment": "AMAZON_SAGEMAKER"}, "config_file"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    tmp_path: Path, content: dict[str, Any], names: str
) -> None:
    with pytest.raises(FieldError, match=names):
        LaunchConfig(config_file=written(tmp_path, **content))


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"helpful.fsdp": True}, "helpful.fsdp: shards over processes, and launch is null"),
        ({"safe.deepspeed": {"zero_optimization": {"stage": 2}}}, "safe.deepspeed: shards"),
        ({"helpful.deepspeed": "nowhere.json", "launch.processes": 2}, "'nowhere.json' is no file"),
        ({"sft.fsdp_config": {"version": 2}}, "sft.fsdp_config: is given, which needs fsdp"),
        ({"order": ["ppo"], "launch.processes": 2}, "launch: is given, and ppo has a loop"),
        ({"helpful.optim": "adamm"}, "helpful.optim"),
        ({"helpful.dtype": "float16"}, "helpful.dtype"),
    ],
)
def test_what_does_not_go_together(job: Make, overrides: dict[str, Any], names: str) -> None:
    with pytest.raises(FieldError, match=names):
        load_config(job(), overrides)


def test_more_processes_than_gpus_and_another_precision_are_refused_before_any_work(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(job(), {"launch.processes": 3, "bf16": False})
    Job(config, read_data(config), None)  # without GPUs any number is
    file = written(tmp_path, mixed_precision="bf16")
    other = dataclasses.replace(config, launch=LaunchConfig(config_file=file))
    with pytest.raises(InputError, match="mixed_precision is 'bf16', and the job's bf16 is false"):
        Job(other, read_data(other), None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="3 processes on this machine, which has 2 GPUs"):
        Job(config, read_data(config), None)
    assert not (tmp_path / "run").exists()
