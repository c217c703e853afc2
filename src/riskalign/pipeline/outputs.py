"""Where a job writes below its folder, and what it reads: the two must not meet."""

from riskalign.files.folder import Outputs
from riskalign.pipeline.config import AlignConfig

_KINDS = ("reward", "cost")


def outputs_of(config: AlignConfig, *, trains: bool = True) -> Outputs:
    """All that a job may write; without `trains`, one that only measures."""
    files = ["manifest.json", "config.yaml", "finished.json"]
    trees: list[str] = []
    if config.evaluation is not None:
        files += ["results.json", "report.html"]
        scored = ["start", "step1", "final"]
        scored += [f"merge-{w:g}" for w in config.merges]
        scored += [f"dial-{w:g}" for w in config.evaluation.dial]
        files += [f"evaluation/{name}.jsonl" for name in scored]
    if not trains:
        return Outputs(files, trees)
    trees.append("model")
    if config.data is not None and config.evaluation is not None:
        trees += [f"scorers/{k}" for k in _KINDS if getattr(config.scoring_settings(), k) is None]
    if config.own_answers():
        trees += [f"labellers/{kind}" for kind in _KINDS]
    steps = [name for name, _ in config.steps()]
    for name in [*(["sft"] if config.sft is not None else []), *steps]:
        files.append(f"{name}/log.json")
        trees += [f"{name}/{tree}" for tree in ("model", "adapter", "checkpoints")]
    for name, kind in config.steps():
        if kind == "ppo":
            trees += [f"{name}/scorers/{of}" for of in _KINDS]
            files += [f"pairs/{name}-{of}.jsonl" for of in config.pair_kinds(without_steps=True)]
        elif not config.is_given(kind):
            files.append(f"pairs/{name}.jsonl")
    return Outputs(files, trees)


def inputs_of(config: AlignConfig) -> dict[str, str | None]:
    """What a job reads, by its field; a name that is no path is none."""
    found = {"model": config.model, "chat_template": config.chat_template}
    for kind in ("helpful", "safe"):
        step = getattr(config, kind)
        found |= {f"{kind}.data": step.data, f"{kind}.eval_data": step.eval_data}
    if config.data is not None:
        found |= {"data.path": config.data.path, "data.safe_path": config.data.safe_path}
    if config.scoring is not None:
        own = ("reward", "cost", "encoder", "prompts")
        found |= {f"scoring.{name}": getattr(config.scoring, name) for name in own}
    return found
