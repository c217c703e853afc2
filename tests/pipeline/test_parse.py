"""Configurations from YAML, mappings and overrides; every mistake is named where it was made."""

from pathlib import Path

import pytest

from riskalign import RSAConfig
from riskalign.errors import InputError
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.parse import load_config
from riskalign.pipeline.settings import LoraSettings, SamplingConfig


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_with_types_and_defaults(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        """
model: some/folder
lambda_: 2
order: [safe, helpful]
safe:
  learning_rate: 1e-5
  num_train_epochs: 3
  bf16: null
peft: {r: 4, target_modules: [q_proj, v_proj]}
evaluation:
  dial: [0, 0.5, 1]
""",
    )
    config = load_config(path)
    assert config.model == "some/folder"
    assert config.order == ("safe", "helpful")
    assert config.safe.learning_rate == 1e-5  # text in YAML 1.1
    assert config.safe.num_train_epochs == 3.0
    assert config.peft == LoraSettings(r=4, target_modules=("q_proj", "v_proj"))
    assert config.evaluation is not None
    assert config.evaluation.dial == (0.0, 0.5, 1.0)
    assert config.helpful == AlignConfig().helpful
    assert load_config(None) == load_config(_file(tmp_path, "# nothing\n")) == AlignConfig()


def test_overrides_win_and_are_converted(tmp_path: Path) -> None:
    path = _file(tmp_path, "seed: 1\nsafe: {beta: 1.0}\n")
    overrides = ["safe.beta=2e-1", "seed=7", "peft.r=8", "evaluation=null", "order=safe,helpful"]
    config = load_config(path, overrides)
    assert config.safe.beta == 0.2
    assert config.seed == 7
    assert config.peft == LoraSettings(r=8)
    assert config.evaluation is None
    assert config.order == ("safe", "helpful")
    assert load_config(config, {"safe.risk": "erm:0.5"}).safe.risk == "erm:0.5"
    assert load_config({"safe": {"skip": True}}).safe.skip
    assert load_config(config) == config


def test_step_sampling_inherits_from_the_job(tmp_path: Path) -> None:
    path = _file(tmp_path, "sampling: {prompts: 9, top_p: 0.9}\nsafe: {sampling: {prompts: 20}}\n")
    config = load_config(path)
    assert config.step_sampling("safe") == SamplingConfig(prompts=20, top_p=0.9)
    assert config.step_sampling("helpful") == SamplingConfig(prompts=9, top_p=0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0\nlambda: 2\n", r"job.yaml, line 2: lambda: .*'lambda_'"),
        ("safe:\n  skip: false\n  lerning_rate: 1\n", r"line 3: safe.lerning.*'learning_rate'"),
        ("zzz: 1\n", r"line 1: zzz: no such field; there are: model, chat_template, output_dir"),
        ("beta: 0\n", r"line 1: beta: 0 should be greater than 0"),
        ("seed: 1\nbeta: [1]\n", r"line 2: beta: \[1\] should be a valid number"),
        ("seed: true\n", r"line 1: seed: expected a number, found True"),
        ("seed: 1.5\n", r"seed: 1.5 should be a valid integer"),
        ("model: 7\n", r"model: expected text \(put it in quotes\), found 7"),
        ("safe: {skip: 1}\n", r"safe.skip: expected true or false, found 1"),
        ("safe: 3\n", r"line 1: safe: 3 should be a dictionary"),
        ("schedule: papers\n", r"schedule: 'papers' should be 'objective', 'both' or 'paper'"),
        ("order: [safe, sane]\n", r"order: 'sane' is not one of helpful, safe, ppo"),
        ("order: {safe: 1}\n", r"order: .* should be a valid tuple"),
        ("safe:\n  risk: cvar:1.0\n", r"line 2: safe.risk: .*out of range"),
        ("seed: 1\nseed: 2\n", r"line 2: seed: given a second time"),
        ("seed: [1\n", r"line \d: not valid YAML"),
        ("- 1\n", r"expected fields such as"),
        ("safe: {sampling: {promts: 2}}\n", r"safe.sampling.promts: .*'prompts'"),
        ("sampling: {promts: 2}\nsafe: {sampling: {prompts: 2}}\n", r"line 1: sampling.promts"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(_file(tmp_path, text))


def test_mistakes_in_overrides_and_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"override: safe.beta: -1 should be greater"):
        load_config(None, {"safe.beta": -1})
    with pytest.raises(InputError, match="write field=value"):
        load_config(None, ["safe.beta"])
    with pytest.raises(InputError, match="seed: has no fields of its own"):
        load_config({"seed": 1}, ["seed.x=1"])
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.yaml: not UTF-8 \(byte 10\)"):
        load_config(tmp_path / "latin.yaml")
    with pytest.raises(InputError, match=r"config .*: is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x]\nb: [" + "*a, " * 30 + "]", r"job.yaml, line 2: not valid YAML: .*repeated"),
        ("order: " + "[" * 5000, r"line 1: .*nested too deeply"),
        ("seed: 1\nmodel: 2001-99-99\n", r"line 2: model: cannot be read: month"),
        ("seed: " + "9" * 5000 + "\n", r"line 1: seed: cannot be read"),
        ("model: 2001-01-02\n", r"model: expected text .*, found datetime.date"),
        ("safe: {save_strategy: yes}\n", r"save_strategy: True should be 'epoch'"),
        ("# " + "x" * 1_100_000, r"bytes are no configuration"),
    ],
    ids=["aliases", "depth", "date", "digits", "a date", "yes", "size"],
)
def test_what_no_configuration_needs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(_file(tmp_path, text))
    name, _, value = text.partition(":")
    if value.strip() and "\n" not in value.strip() and name != "model":
        with pytest.raises(InputError):
            load_config(None, [f"{name}={value.strip()}"])


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(_file(tmp_path, "model: !!python/object/apply:os.getcwd []\n"))


def test_a_bare_no_is_no(tmp_path: Path) -> None:
    """YAML takes it for false."""
    (tmp_path / "job.yaml").write_text("safe:\n  save_strategy: no\n")
    assert load_config(tmp_path / "job.yaml").safe.save_strategy == "no"
    given = RSAConfig(output_dir=str(tmp_path), save_strategy=False)  # type: ignore[arg-type]
    assert given.save_strategy == "no"
