"""Saving replaces a folder whole or leaves it alone; the fingerprint feels every weight."""

from pathlib import Path

import pytest
import torch

from riskalign.models import fingerprint, load_model, save_model
from tests import tiny


def test_fingerprint_feels_one_bit_and_nothing_else() -> None:
    model = tiny.make_model()
    before = fingerprint(model)
    assert before == fingerprint(tiny.make_model())
    assert before != fingerprint(tiny.make_model(seed=1))
    assert before != fingerprint(tiny.make_model(dtype=torch.bfloat16))
    with torch.no_grad():
        weight = next(model.parameters())
        weight.view(torch.int32)[0] ^= 1
    assert before != fingerprint(model)


def test_saving_replaces_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_model(tiny.make_model(), tiny.make_tokenizer(), target)
    (target / "stale.txt").touch()
    save_model(tiny.make_model(seed=1), tiny.make_tokenizer(), target)
    assert not (target / "stale.txt").exists()
    assert load_model(target).revision_or_hash == fingerprint(tiny.make_model(seed=1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_interrupted_saving_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    save_model(tiny.make_model(), tiny.make_tokenizer(), target)
    model = tiny.make_model(seed=1)

    def disk_full(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tiny.make_tokenizer(), target)
    assert load_model(target).revision_or_hash == fingerprint(tiny.make_model())
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
