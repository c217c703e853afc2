"""Whether a launcher started this process as one of several, which would write the same files."""

import os

from riskalign.errors import InputError

#: How launchers name the number of processes and this one's place: torchrun and accelerate, srun,
#: Open MPI, other MPIs. Slurm's own SLURM_NTASKS is also that of a batch script, which is one.
_NAMES = (
    ("WORLD_SIZE", "RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
)


def place() -> tuple[int, int]:
    """This process's rank, and how many processes its launcher started; (0, 1) without one."""
    for size, rank in _NAMES:
        n = os.environ.get(size, "")
        if n.isdecimal() and int(n) > 1:
            own = os.environ.get(rank, "")
            return int(own) if own.isdecimal() else 0, int(n)
    return 0, 1


def refuse_several() -> None:
    """Raise `InputError` in one of several processes: each would do the whole job in one folder."""
    _, n = place()
    if n > 1:
        raise InputError(
            f"a launcher started {n} processes of this command, and each would do the whole job. "
            f"Start it once, without the launcher: where its configuration says launch: "
            f"{{processes: {n}}}, a job starts processes itself."
        )
