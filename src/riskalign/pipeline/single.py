"""Parts of the job on their own: a configuration, pairs from a model, an evaluation of models."""

import dataclasses
import gzip
import json
from pathlib import Path

import yaml

from riskalign.errors import InputError
from riskalign.files.atomic import json_lines, write_bytes, write_json_lines
from riskalign.files.folder import check_new_folder, check_out
from riskalign.models import LoadedModel, fingerprint, load_model, save_model
from riskalign.models.merge import merge
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.evaluate import evaluate, report
from riskalign.pipeline.given import JobData
from riskalign.pipeline.job import Job, ModelOnDisk, inputs_of
from riskalign.pipeline.judged import note_prompts, prompts_of
from riskalign.pipeline.launch import refuse_launch
from riskalign.pipeline.ledger import stage_seed
from riskalign.pipeline.machine import check_folder, use_bf16
from riskalign.pipeline.methods import has_rows
from riskalign.pipeline.progress import Progress, Silent, quiet_libraries, updates
from riskalign.pipeline.step_data import averages, draw_answers, sample_rows
from riskalign.pipeline.steps import Trained
from riskalign.worlds import World, get_world


def config_text(config: AlignConfig) -> str:
    """Return `config` as YAML that `load_config` reads back, null where a value is derived."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    return str(yaml.safe_dump(plain, sort_keys=False))


def write_sampled_pairs(
    config: AlignConfig,
    kind: str,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Sample `config.model` in `config.world` and write `kind` pairs or groups to `out`.

    `out` ends in ``.jsonl`` or ``.jsonl.gz`` and is written whole or not at all; the same
    configuration and machine give the same bytes. Returns `sample_rows`' counts.

    Raises `InputError`: no such kind, no world, another ending, no folder to write to, no pairs to
    be had, or `out` exists and is not to be overwritten.
    """
    if not has_rows(kind):
        raise InputError(f"kind: must be 'helpful' or 'safe', not {kind!r}")
    told, endings = progress or Silent(), (".jsonl", ".jsonl.gz")
    with quiet_libraries():
        world, loaded = _asked(config, "pairs", out, endings, overwrite, told)
        told.stage(f"pairs-{kind}")
        # Scores are minus the costs: a step that trains on the file charges them itself.
        rows, counts, _ = sample_rows(
            world,
            loaded,
            kind,
            config.step_sampling(kind),
            config.step(kind),
            seed=stage_seed(config, f"pairs-{kind}"),
            bf16=use_bf16(config.bf16),
            update=updates(told),
        )
        told.done()
    text = json_lines(rows).encode()
    # A fixed time stamp: the same pairs must give the same file.
    write_bytes(out, gzip.compress(text, mtime=0) if out.suffix == ".gz" else text)
    return counts


def write_answers(
    config: AlignConfig, out: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> dict[str, float]:
    """Sample `config.model` in `config.world` and write its scored answers to `out`, a line each.

    Rows `prompt_id`, `text`, `reward` and `cost`, as `riskalign plan --answers` takes them; prompts
    and answers as the job's `sampling` says. Returns their numbers and `averages`.

    Raises `InputError`: no world, another ending than ``.jsonl``, no folder to write to, or `out`
    exists and is not to be overwritten.
    """
    told = progress or Silent()
    with quiet_libraries():
        world, loaded = _asked(config, "answers", out, (".jsonl",), overwrite, told)
        told.stage("answers")
        prompts, found = draw_answers(
            world,
            loaded,
            config.sampling,
            seed=stage_seed(config, "answers"),
            bf16=use_bf16(config.bf16),
            update=updates(told),
        )
        told.done()
    scored = [each.answers for each in found]
    rows = [
        {"prompt_id": prompt.id, **answer._asdict()}
        for prompt, own in zip(prompts, scored, strict=True)
        for answer in own
    ]
    write_json_lines(out, rows)
    return {"prompts": len(prompts), **averages(scored)}


def evaluate_models(
    config: AlignConfig,
    *,
    final: str,
    step1: str | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> tuple[Path, Path]:
    """Measure `final` against `config.model`, with the dial from `step1` where that is given.

    Returns the paths of ``results.json`` and ``report.html`` in `config.output_dir`.

    Raises `InputError`: the configuration has no world or no evaluation, or a model cannot be
    loaded.
    """
    if config.world is None or config.evaluation is None:
        raise InputError("evaluate: needs a world and an evaluation; neither may be null")
    if config.merges and step1 is None:
        raise InputError("merges: lie between two models; give --step1, or set merges: []")
    told, trust = progress or Silent(), config.trust_remote_code
    with quiet_libraries():
        told.stage("load")
        models = {}
        # Before anything is written.
        for key, name in {"start": config.model, "step1": step1, "final": final}.items():
            if name:
                weights = fingerprint(load_model(name, trust_remote_code=trust).model)
                models[key] = ModelOnDisk(name, weights, trust)
        told.done()
        measured = {"final": final, "step1": step1}
        job = Job(config, JobData(), told, "Tail evaluation", command, measured=measured)
        job.method = None  # the configuration says how to measure, not how `final` was made
        with job.recorded():
            return report(job, Trained(models), *evaluate(job, models))


def write_merge(
    model_1: str, model_2: str, w: float, out: Path, *, trust_remote_code: bool = False
) -> None:
    """Write the model of weights `(1 - w) * model_1 + w * model_2` to the folder `out`.

    For instance P-SACPO's and RSA(P)'s, from the folders of the two steps' models. The tokenizer is
    `model_2`'s; the folder appears whole or not at all. The prompts that either was trained on, as
    far as their folders tell, are noted in it, for whoever judges it.

    Raises `InputError`: a model cannot be loaded, they differ in size, `w` is not finite, or `out`
    cannot be written or is a folder with something in it.
    """
    check_new_folder(out)
    check_folder(out.parent, "out")
    with quiet_libraries():
        first, second = (
            load_model(name, trust_remote_code=trust_remote_code) for name in (model_1, model_2)
        )
        save_model(merge(first.model, second.model, w), second.tokenizer, out)
        if any(prompts_of(name) is not None for name in (model_1, model_2)):
            note_prompts(out, model_1, model_2)


def _asked(
    config: AlignConfig,
    what: str,
    out: Path,
    endings: tuple[str, ...],
    overwrite: bool,
    progress: Progress,
) -> tuple[World, LoadedModel]:
    """The world to sample `what` in and the model to ask, once `out` can be written."""
    refuse_launch(config.launch, "sampling to a file")
    check_out(out, overwrite, inputs_of(config))
    if config.world is None:
        raise InputError(f"world: is null; {what} are sampled in a world, so name one")
    if not out.name.endswith(endings):
        raise InputError(f"out: {str(out)!r} must end in {' or '.join(endings)}")
    world = get_world(config.world)
    check_folder(out.parent, "out")
    progress.stage("load")
    loaded = load_model(config.model, trust_remote_code=config.trust_remote_code)
    progress.done()
    return world, loaded
