"""What a job certified as a folder to serve: a model, or the two of the dial, and how to use it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign.errors import InputError, door
from riskalign.files.atomic import link_or_copy, new_folder, write_bytes, write_text
from riskalign.files.folder import check_new_folder, from_json
from riskalign.models import LoadedModel, fingerprint, load_model, save_model
from riskalign.models.dial import DIAL_FILE
from riskalign.models.merge import LARGEST_WEIGHT, merge
from riskalign.pipeline.card import card
from riskalign.pipeline.certify import BAKED, CERTIFICATE, Certificate
from riskalign.pipeline.judged import note_prompts, prompts_of
from riskalign.pipeline.machine import check_folder, for_inference
from riskalign.pipeline.progress import quiet_libraries

_ENDS = {0.0: "step1", 1.0: "final"}


@dataclass(frozen=True)
class _Tested:
    """A model that a job tested: where it lies now, and the fingerprint that it had."""

    source: str
    weights: str
    chat_template: str | None

    def load(self, trust_remote_code: bool) -> LoadedModel:
        """Load it; raise `InputError` when its weights are others by now."""
        loaded = load_model(self.source, trust_remote_code=trust_remote_code)
        if fingerprint(loaded.model) != self.weights:
            raise InputError(
                f"model {self.source!r}: its weights are not those that the certificate is of. Run "
                "the job again."
            )
        if self.chat_template is not None:
            loaded.tokenizer.chat_template = self.chat_template
        return loaded

    def put(self, folder: Path, trust_remote_code: bool) -> None:
        """Write it to an empty folder; files of a model on this disk get a second name."""
        loaded, place = self.load(trust_remote_code), Path(self.source).expanduser()
        is_plain = (place / "config.json").is_file() and self.chat_template is None
        if not is_plain or (place / "adapter_config.json").is_file():
            save_model(loaded.model, loaded.tokenizer, folder)
            return
        for path in place.iterdir():
            if path.is_file():
                link_or_copy(path.resolve(), folder / path.name)


def export_certified(
    run: Path, out: Path, *, baked: bool = False, trust_remote_code: bool = False
) -> Certificate:
    """Write what the job in `run` certified to the new folder `out`; return the certificate.

    One of the job's own models is linked, or copied where the disk has no links. A point between
    them becomes a folder that `load_dial` takes; with `baked` it is the average of their weights,
    made as it was measured. Beside them lie `certificate.json` and a model card, `README.md`. The
    folder appears whole or not at all.

    Raises `InputError`: no certificate there, nothing was certified, weights are others than those
    that were tested, or `out` cannot be written or has something in it.
    """
    check_new_folder(out)
    path = run / (BAKED if baked else CERTIFICATE)
    text, certificate, w, models = _read(path, run)
    prints = [model.weights for model in models]
    check_folder(out.parent, "out")
    with quiet_libraries(), new_folder(out) as folder:
        if w is None or len(models) == 1:
            models[0].put(folder, trust_remote_code)
        elif baked:
            prints = [_bake(models, w, certificate["bf16"], folder, trust_remote_code)]
        else:
            for i, model in enumerate(models, 1):
                model.put(folder / f"model_{i}", trust_remote_code)
            dtype = "bfloat16" if certificate["bf16"] else "float32"
            said = {"w": w, "dtype": dtype, "fingerprints": prints}
            write_text(folder / DIAL_FILE, json.dumps(said, indent=1) + "\n")
        write_bytes(folder / CERTIFICATE, text)
        is_dial = len(models) == 2 and not baked
        write_text(folder / "README.md", card(certificate, prints, is_dial=is_dial))
    return certificate


def _read(path: Path, run: Path) -> tuple[bytes, Certificate, float | None, list[_Tested]]:
    """A certificate as it lies there and as read, the point chosen, and the models it needs.

    A model with a multiplier of its own is no point of the dial: None.
    """
    if not path.is_file():
        wanted = "budget.baked: true" if path.name == BAKED else "a budget"
        raise InputError(f"{path}: no such file. Give the folder of a job with {wanted}.")
    text = path.read_bytes()
    with door(f"{path}: not a job's certificate", "Run the job again."):
        content: dict[str, Any] = from_json(text)
        chosen, w, models = (content[key] for key in ("certified", "certified_w", "models"))
        if chosen is not None:
            if w is not None and not abs(w) <= LARGEST_WEIGHT:
                raise ValueError(f"certified_w is {w}")
            between = w is not None and w not in _ENDS
            names = list(_ENDS.values()) if between else [_ENDS.get(w, chosen)]
            tested = [_tested(run, name, models[name]) for name in names]
            card(content, [model.weights for model in tested], is_dial=False)
    if chosen is None:
        raise InputError(
            f"{path}: certifies nothing, as no setting surely kept the limits. Raise the limit, "
            "ask more prompts, or train for a safer model."
        )
    return text, content, w, tested


def _tested(run: Path, name: str, about: dict[str, str]) -> _Tested:
    """A model of a job, whose folder may have moved since."""
    own = run / ("model" if name == "final" else Path(*Path(about["name"]).parts[-2:]))
    source = str(own) if own.is_dir() else about["name"]
    return _Tested(source, about["fingerprint"], about.get("chat_template"))


def _bake(models: list[_Tested], w: float, bf16: bool, folder: Path, trust: bool) -> str:
    """Write the average of two models; its fingerprint, in the precision that models load in."""
    first, second = (model.load(trust) for model in models)
    # In the precision that it was measured in: rounded before the sum, not only after it.
    merged: Any = merge(for_inference(first, bf16), for_inference(second, bf16), w)
    save_model(merged, second.tokenizer, folder)
    sources = [model.source for model in models]
    if any(prompts_of(source) is not None for source in sources):
        note_prompts(folder, *sources)
    return fingerprint(merged.float())
