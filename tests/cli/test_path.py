"""Files beside a user's data do not run as code; a world that is named does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import riskalign

#: What installed libraries look for by name and do without.
NAMES = ("attr", "linkify_it", "cuda", "pynvml", "apex", "flash_attn")

WORLD = """
import neighbour
from riskalign import Prompt

class Mine:
    name = "mine"

    def prompts(self, split, n, seed):
        message = {"role": "user", "content": split}
        return [Prompt(f"{split}-{seed}-{i}", ({**message, "content": f"{split} {i}"},))
                for i in range(n)]

    def reward(self, prompt, answer):
        return float(len(answer))

    def cost(self, prompt, answer):
        return neighbour.COST
"""

# As the console script starts: the script's folder is on the path, not the working directory.
START = """
import json, sys
from pathlib import Path
from riskalign.cli import main
try:
    main()
finally:
    here = str(Path.cwd())
    files = {n: str(getattr(m, "__file__", "")) for n, m in list(sys.modules.items())}
    found = [name for name, file in files.items() if file.startswith(here)]
    print("FOUND", json.dumps([sorted(found), here in sys.path or "" in sys.path]))
"""


def test_of_the_working_directory_only_the_world_that_is_named_runs(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in NAMES:
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    (here / "mine.py").write_text(WORLD)
    (here / "neighbour.py").write_text("COST = 0.0\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "start.py").write_text(START)
    paths = [str(Path(riskalign.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    # All of a job is imported: the world is made, then the model is looked for.
    arguments = ["--kind", "answers", "--out", "a.jsonl", "--model", "./none"]
    done = subprocess.run(
        [
            sys.executable,
            tmp_path / "bin" / "start.py",
            "sample",
            "--world",
            "mine:Mine",
            *arguments,
        ],
        cwd=here,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "./none" in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert json.loads(line.removeprefix("FOUND ")) == [["mine", "neighbour"], False]
    assert not (tmp_path / "ran").exists()
