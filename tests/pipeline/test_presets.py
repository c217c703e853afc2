"""Every preset: its method, and that it fits any job."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign import align
from riskalign.errors import InputError
from riskalign.pipeline import load_config, preset_names, preset_text
from riskalign.pipeline.presets import display_name, method_name

HELPFUL_DPO = {"helpful.loss_type": "dpo", "helpful.risk": "mean"}
CVAR = "cvar:0.95"
# What makes each method; fields of the job's configuration.
METHODS: dict[str, dict[str, Any]] = {
    "dpo-helpful": {"order": ("helpful",), **HELPFUL_DPO},
    "dpo-safe": {"order": ("safe",), "safe.loss_type": "dpo", "safe.risk": "mean"},
    "tdpo": {"order": ("helpful",), "helpful.loss_type": "tdpo2", "helpful.risk": "mean"},
    "ra-dpo": {"order": ("helpful",), "helpful.loss_type": "rsa2", "helpful.risk": CVAR},
    "ra-dpo-paper-code": {"helpful.loss_type": "rsa2", "helpful.risk": "paper_code:0.95"},
    "sacpo": {"safe.loss_type": "dpo", "safe.risk": "mean", **HELPFUL_DPO},
    "sacpo-kto": {"safe.loss_type": "kto", "safe.target": "hard", **HELPFUL_DPO},
    "p-sacpo": {"merges": (0.25, 0.5, 0.75), "safe.loss_type": "dpo", **HELPFUL_DPO},
    "rsa": {"helpful.loss_type": "rsa2", "safe.loss_type": "rsa2", "safe.risk": CVAR},
    "rsa-p": {"merges": (0.25, 0.5, 0.75), "helpful.risk": CVAR, "safe.risk": CVAR},
    "safe-rlhf": {"order": ("helpful", "ppo"), **HELPFUL_DPO},
    "rsa-tail": {"order": ("helpful", "safe"), "safe.risk": CVAR, **HELPFUL_DPO},
    "safe-dpo": {
        "order": ("helpful",),
        "helpful.loss_type": "dpo",
        "helpful.target": "offset",
        "helpful.safe_cost": 0.0,
    },
    "rsa-answers": {"safe.answer_risk": CVAR, "safe.anchors": 0.5, **HELPFUL_DPO},
    "sacpo-rounds": {"order": ("helpful", "safe", "safe"), "safe.risk": "mean", **HELPFUL_DPO},
    "rsa-rounds": {"order": ("helpful", "safe", "safe"), "safe.risk": CVAR, **HELPFUL_DPO},
}


def field(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_all_are_here() -> None:
    assert preset_names() == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    given = {"helpful": {"target": "gap", "learning_rate": 0.5, "beta": 0.3}, "model": "here"}
    config = load_config(given, preset=name)
    for path, value in METHODS[name].items():
        assert field(config, path) == value, path
    # What does not make the method is the job's.
    assert (config.model, config.helpful.learning_rate, config.helpful.beta) == ("here", 0.5, 0.3)
    assert preset_text(name).startswith("# ")


#: Presets with steps in common stand beside each other.
_ALIKE = [name for _, name in sorted((str(fields), name) for name, fields in METHODS.items())]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder in which a preset finds the steps that the one before it has in common."""
    return tmp_path_factory.mktemp("presets")


@pytest.mark.parametrize("name", _ALIKE)
def test_every_preset_trains(name: str, job: Callable[..., dict[str, Any]], shared: Path) -> None:
    """Each from its start model to a model of other weights, step by step."""
    ppo = {"iterations": 1, "prompts_per_iteration": 2, "answers_per_prompt": 2}
    given = job(ppo=ppo | {"num_mini_batches": 1, "max_new_tokens": 5}, evaluation=None)
    given["output_dir"] = str(shared)
    given["helpful"]["max_steps"] = 1
    # One epoch: a batch of groups without a cost would leave the model as it is.
    given["safe"]["max_steps"] = -1
    result = align(given, preset=name)
    config = load_config(given, preset=name)
    assert list(result.steps) == [step for step, _ in config.steps()]
    models = json.loads(result.manifest.read_text())["models"]
    prints = [models[step]["fingerprint"] for step in ("start", *result.steps)]
    assert len(set(prints)) == len(prints)
    for before, step in zip(prints, result.steps, strict=False):
        assert models[step]["reference"] == before


def test_a_job_is_called_by_what_it_does() -> None:
    """By the preset that its settings make, whoever wrote them; else by its steps."""
    for name in METHODS:
        assert method_name(load_config(None, preset=name)) == display_name(name)
        assert 0 < len(display_name(name)) <= 24
    assert len({display_name(name) for name in METHODS}) == len(METHODS)
    dpo = {"loss_type": "dpo", "risk": "cvar:0.9", "alpha": 0.3}  # neither of which dpo has
    assert method_name(load_config({"helpful": dpo, "safe": dpo})) == "SACPO"
    assert method_name(load_config({"helpful": dpo, "safe": {**dpo, "skip": True}})) == (
        "DPO on helpful pairs"
    )
    assert method_name(load_config(None, ["helpful.safe_cost=2"], "safe-dpo")) == "SafeDPO"
    safer = {"target": "offset", "loss_type": "dpo", "safe_cost": 1}
    assert method_name(load_config({"helpful": safer, "safe": dpo})) != "SACPO"
    given = ["order=[safe,safe]", "safe.risk=cvar:0.99"]
    found = method_name(load_config(None, given, "rsa"))
    assert found == "RSA2 (cvar:0.99) on safe pairs in 2 rounds"
    found = method_name(load_config(None, ["safe.risk=erm:0.5", "merges=[0.5]"], "rsa-tail"))
    assert found == "DPO on helpful pairs, then RSA2 (erm:0.5) on safe pairs, averaged"
    found = method_name(load_config(None, ["order=[safe,ppo]"], "sacpo"))
    assert found == "DPO on safe pairs, then PPO-Lagrangian"


def test_overrides_lie_over_presets() -> None:
    assert load_config(None, ["safe.risk=erm:0.5"], "rsa").safe.risk == "erm:0.5"


def test_errors_name_the_preset() -> None:
    with pytest.raises(InputError, match=r"'rpo' is not one of the presets: dpo-helpful, "):
        load_config(None, preset="rpo")
    step = {"label_smoothing": 0.1, "target": "hard"}
    with pytest.raises(InputError, match=r"safe.per_device_train_batch_size: is not at least 2"):
        load_config({"safe": {"per_device_train_batch_size": 1}}, preset="sacpo-kto")
    with pytest.raises(InputError, match=r"preset p-sacpo: merges: needs steps of two kinds"):
        load_config({"helpful": step}, ["order=[safe]"], "p-sacpo")


def test_a_file_keeps_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: here\nsafe:\n  alpha: -1\n")
    with pytest.raises(InputError, match=r"job.yaml, line 3: safe.alpha"):
        load_config(path, preset="rsa")


def test_laying_over_leaves_the_first_alone() -> None:
    below = {"safe": {"risk": "mean", "alpha": 0.2}, "merges": [0.5], "peft": None}
    config = load_config(below, {"safe.beta": 0.3, "peft.r": 4}, "rsa")
    assert (config.safe.risk, config.safe.alpha, config.safe.beta) == (CVAR, 0.2, 0.3)
    assert below == {"safe": {"risk": "mean", "alpha": 0.2}, "merges": [0.5], "peft": None}
