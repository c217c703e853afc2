"""The dial inside vLLM, against stand-ins for the two things that it takes from vLLM.

The engine itself is checked by benchmarks/vllm_check.py.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.models import fingerprint
from riskalign.models.dial import DIAL_FILE, combine_logits
from tests import tiny


def _add(rows: dict[int, Any], update: Any, ask: Callable[..., Any]) -> None:
    for place, params, prompt, made in update:
        rows[place] = ask(params, prompt, made)


@pytest.fixture
def vllm_dial(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    stand_in = SimpleNamespace(LogitsProcessor=object, process_dict_updates=_add)
    monkeypatch.setitem(sys.modules, "vllm.v1.sample.logits_processor", stand_in)
    monkeypatch.delitem(sys.modules, "riskalign.models.vllm_dial", raising=False)
    yield importlib.import_module("riskalign.models.vllm_dial")
    del sys.modules["riskalign.models.vllm_dial"]


def _config(given: Any, dtype: torch.dtype = torch.float32) -> Any:
    model = SimpleNamespace(dtype=dtype, trust_remote_code=False)
    return SimpleNamespace(additional_config={"riskalign_dial": given}, model_config=model)


def _params(w: float | str | None) -> Any:
    return SimpleNamespace(extra_args=None if w is None else {"w": w})


def test_each_row_at_its_own_w(vllm_dial: Any, tmp_path: Path) -> None:
    two = tiny.make_model(seed=2).eval()
    two.save_pretrained(tmp_path)
    config = _config({"model_2": str(tmp_path), "w": 0.5})
    process = vllm_dial.VllmDial(config, torch.device("cpu"), False)
    assert not process.is_argmax_invariant()
    asked = [(_params(None), [5, 6], [7]), (_params(0.0), [5], []), (_params(1.5), [8], [9, 3])]
    process.update_state([(i, *each) for i, each in enumerate(asked)])
    logits = torch.randn(3, 304, generator=torch.Generator().manual_seed(0))
    found = process.apply(logits.clone())
    for i, (w, ids) in enumerate(((0.5, [5, 6, 7]), (0.0, [5]), (1.5, [8, 9, 3]))):
        with torch.no_grad():
            second = two(torch.tensor([ids])).logits[0, -1]
        # At 0 they stay as they are; of one distribution all the same.
        wanted = logits[i] if w == 0 else combine_logits(logits[i], second, w)
        torch.testing.assert_close(found[i], wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"vocabularies differ \(9 and 304"):
        process.apply(torch.zeros(3, 9))
    with pytest.raises(InputError, match="without token ids"):
        process.update_state([(3, _params(None), None, [])])


@pytest.mark.parametrize("w", [101.0, float("nan"), "much"])
def test_a_w_that_is_none_is_refused(vllm_dial: Any, w: Any) -> None:
    vllm_dial.VllmDial.validate_params(_params(None))
    with pytest.raises(InputError, match=r"^w: "):
        vllm_dial.VllmDial.validate_params(_params(w))


def test_an_exported_folder(vllm_dial: Any, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    two = tiny.make_model(seed=2)
    two.save_pretrained(tmp_path / "model_2")
    tiny.make_tokenizer().save_pretrained(tmp_path / "model_2")
    said: dict[str, Any] = {"w": 0.25, "dtype": "bfloat16"}
    said["fingerprints"] = ["of model_1", fingerprint(two)]
    (tmp_path / DIAL_FILE).write_text(json.dumps(said))
    config = _config(str(tmp_path), torch.bfloat16)
    made = vllm_dial.VllmDial(config, cpu, False)
    made.update_state([(0, _params(None), [5], [])])
    assert made._asked[0].w == 0.25
    with pytest.raises(InputError, match="sampled in bfloat16; give it as --dtype"):
        vllm_dial.VllmDial(_config(str(tmp_path)), cpu, False)
    with pytest.raises(InputError, match="names no folder"):
        vllm_dial.VllmDial(_config(None), cpu, False)
    said["fingerprints"][1] = "of another"
    (tmp_path / DIAL_FILE).write_text(json.dumps(said))
    with pytest.raises(InputError, match="not those that were certified"):
        vllm_dial.VllmDial(config, cpu, False)
