"""The group `launch`: how many processes a job's stages run in, and how accelerate starts them."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import yaml
from accelerate.commands.config.config_args import (  # type: ignore[import-untyped]
    ClusterConfig,
    load_config_from_file,
)
from pydantic import Field

from riskalign.errors import FieldError, InputError, door
from riskalign.settings import Count, Whole, Words, settings

Port = Annotated[Whole, Field(ge=0, lt=2**16)]

#: What accelerate may be configured for; a plain one is started by torchrun, on CPUs as well.
_PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU")
_ENGINES = (*_PLAIN, "FSDP", "DEEPSPEED")


@settings
class LaunchConfig:
    """Training, sampling and measuring in processes of their own, started by `accelerate launch`.

    The job itself stays one process. What is null is as the file of `accelerate config` has it.
    """

    processes: Count | None = None
    """Processes on all machines together, one a GPU: num_processes of accelerate."""
    config_file: Words | None = None
    """File of `accelerate config`, for FSDP, DeepSpeed and what else it knows."""
    machines: Count | None = None
    """Machines, which share the folder of the run: num_machines of accelerate."""
    main_process_ip: Words | None = None
    """Address of the machine that the job is started on, for the others."""
    main_process_port: Port | None = None
    """Its port; null for a free one, where there is one machine."""

    def __post_init__(self) -> None:
        """Refuse what accelerate could not start."""
        file = self._file()
        launch = self.resolved()
        if launch.processes < 1:
            raise FieldError("processes", "is null and config_file has none; give a number")
        if launch.processes % launch.machines:
            why = f"{launch.processes} cannot be split evenly over {launch.machines} machines"
            raise FieldError("processes", why)
        for name in ("main_process_ip", "main_process_port"):
            if launch.machines > 1 and not getattr(launch, name):
                raise FieldError(name, f"is needed for {launch.machines} machines to meet")
        if file is None:
            return
        if launch.engine not in _ENGINES:
            known = ", ".join(_ENGINES)
            raise FieldError("config_file", f"distributed_type {launch.engine} is none of {known}")
        compiled = str(file.dynamo_config.get("dynamo_backend", "NO")).upper()
        if compiled != "NO":
            why = f"dynamo_backend {compiled} compiles what losses do not call; set compile_layers"
            raise FieldError("config_file", why)
        if file.parallelism_config:
            why = "has a parallelism_config, which steps know nothing of; leave it out"
            raise FieldError("config_file", why)
        if (named := _engine_file(vars(file))) is not None and not Path(named).is_file():
            raise FieldError("config_file", f"its deepspeed_config_file {named!r} is no file")

    def resolved(self) -> "Launch":
        """The fields, and what the file has for those that are null."""
        file = self._file()
        machines = self.machines or (1 if file is None else file.num_machines)
        processes = self.processes or (-1 if file is None else file.num_processes)
        ip, port = self.main_process_ip, self.main_process_port
        if file is not None:
            ip = ip or file.main_process_ip
            port = file.main_process_port if port is None else port
        engine = "MULTI_GPU" if file is None else _word(file.distributed_type)
        precision = "no" if file is None else _word(file.mixed_precision or "no")
        return Launch(processes, machines, ip, port, engine, precision, self.config_file)

    def engine(self) -> str:
        """What accelerate calls it."""
        return self.resolved().engine

    def _file(self) -> ClusterConfig | None:
        if self.config_file is None:
            return None
        path = Path(self.config_file).expanduser()
        if not path.is_file():
            raise FieldError("config_file", f"{self.config_file!r} is no file")
        try:
            with door("accelerate cannot read it", "Make it by `accelerate config`."):
                found = load_config_from_file(str(path))
        except InputError as error:
            raise FieldError("config_file", f"{self.config_file!r}: {error}") from None
        if not isinstance(found, ClusterConfig):
            raise FieldError("config_file", f"{self.config_file!r}: is of no machine of your own")
        return found


def refuse_launch(launch: LaunchConfig | None, what: str) -> None:
    """Raise `InputError` where a command that samples in its own process is asked for others."""
    if launch is not None:
        raise InputError(f"launch: {what} runs in one process. Add --launch null.")


def _engine_file(file: Mapping[str, Any]) -> str | None:
    """The file that one of accelerate's names for DeepSpeed, if it does."""
    named = (file.get("deepspeed_config") or {}).get("deepspeed_config_file")
    return None if named in (None, "none") else str(named)


def _word(value: Any) -> str:
    """Of an enumeration, as accelerate's file has it."""
    return str(getattr(value, "value", value))


class Launch(NamedTuple):
    """A checked `LaunchConfig`, with nothing left to look up."""

    processes: int
    machines: int
    main_process_ip: str | None
    main_process_port: int | None
    engine: str
    mixed_precision: str
    config_file: str | None

    def check_machine(self) -> None:
        """Raise `InputError` where this machine has GPUs, and too few for its processes."""
        gpus, own = torch.cuda.device_count(), self.processes // self.machines
        if torch.cuda.is_available() and own > gpus:
            raise InputError(
                f"launch.processes: {own} processes on this machine, which has {gpus} GPUs, and "
                f"each takes one. Set launch.processes to at most {gpus * self.machines}."
            )

    def check_precision(self, bf16: bool) -> None:
        """Raise `InputError` where the file asks for another precision than the job does."""
        if self.mixed_precision != "no" and not (bf16 and self.mixed_precision == "bf16"):
            raise InputError(
                f"launch.config_file: mixed_precision is {self.mixed_precision!r}, and the job's "
                f"bf16 is {str(bf16).lower()}. Set mixed_precision: 'no' there; bf16 decides."
            )

    def identity(self) -> dict[str, Any]:
        """What the result of a training may depend on."""
        file = None
        if self.config_file is not None:
            path = Path(self.config_file).expanduser()
            file = yaml.safe_load(path.read_text(encoding="utf-8"))
            of_place = ("num_machines", "machine_rank", "main_process_ip", "main_process_port")
            file = {k: v for k, v in file.items() if k not in (*of_place, "num_processes")}
            if (named := _engine_file(file)) is not None:
                file["deepspeed_config"] = Path(named).read_text(encoding="utf-8")
        return {"processes": self.processes, "engine": self.engine, "config": file}

    def command(self, folder: Path, machine_rank: int = 0) -> list[str]:
        """What starts the workers of one machine on the request that lies in a folder.

        Without a configuration of the user's the folder gets one, for accelerate would take what it
        finds in the home folder.
        """
        file = self.config_file and str(Path(self.config_file).expanduser().resolve())
        if file is None:
            path = folder / "accelerate.yaml"
            kind = "MULTI_GPU" if self.processes > 1 else "NO"
            path.write_text(yaml.safe_dump({"distributed_type": kind, "num_processes": 1}))
            file = str(path)
        words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file]
        if self.engine in _PLAIN and self.processes > 1:
            words.append("--multi_gpu")  # torchrun, wherever
        if self.engine == "DEEPSPEED" and self.machines > 1:
            # Else the line of one machine would start those of the others as well.
            words += ["--deepspeed_multinode_launcher", "standard"]
        port = self.main_process_port
        given = {
            "num_processes": self.processes,
            "num_machines": self.machines,
            "machine_rank": machine_rank,
            "main_process_ip": self.main_process_ip,
            "main_process_port": 0 if port is None and self.machines == 1 else port,
            "mixed_precision": "no",  # the step's own bf16 decides
        }
        for name, value in given.items():
            words += [] if value is None else [f"--{name}", str(value)]
        return [*words, "-m", "riskalign.pipeline.worker", str(folder)]

    def elsewhere(self, folder: Path) -> list[str]:
        """What to type on the other machines, and instead for Slurm, where there are several."""
        if self.machines == 1:
            return []
        lines = [
            f"machine {rank}: {shlex.join(self.command(folder, rank))}"
            for rank in range(1, self.machines)
        ]
        others = self.machines - 1
        step = shlex.join(self.command(folder, 0)).replace(
            "--machine_rank 0", "--machine_rank $((SLURM_NODEID + 1))"
        )
        srun = f"srun --nodes={others} --ntasks={others} --ntasks-per-node=1"
        return [*lines, f"or by Slurm, on the others: {srun} bash -c {shlex.quote(step)}"]
