"""An adapter trained on 4-bit weights is merged into the plain ones."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from riskalign import align
from riskalign.errors import InputError
from riskalign.models import load_model

Make = Callable[..., dict[str, Any]]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_plain_weights_come_out(job: Make, model_folder: Path) -> None:
    config = job(load_in_4bit=True, peft={"r": 2, "lora_alpha": 4}, evaluation=None)
    result = align(config)
    start = load_model(str(model_folder)).model
    expected: Any = PeftModel.from_pretrained(
        start, str(result.steps["helpful"].parent / "adapter")
    )
    expected = expected.merge_and_unload().state_dict()
    found = load_model(str(result.steps["helpful"])).model.state_dict()
    assert found.keys() == expected.keys()
    for name, weights in found.items():
        torch.testing.assert_close(weights, expected[name])
    assert any(
        not torch.equal(found[name], weights)
        for name, weights in load_model(str(model_folder)).model.state_dict().items()
    )
    saved = json.loads((result.model / "config.json").read_text())
    assert "quantization_config" not in saved


def test_only_an_adapter_can_be_trained(job: Make) -> None:
    with pytest.raises(InputError, match="load_in_4bit: is true, and 4-bit weights cannot be"):
        align(job(load_in_4bit=True))


def test_a_template_from_a_file(job: Make, model_folder: Path, tmp_path: Path) -> None:
    settings = model_folder / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    content.pop("chat_template", None)
    settings.write_text(json.dumps(content))
    (model_folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(InputError, match="has no chat template"):
        align(job())
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    result = align(job(chat_template=str(path), evaluation=None))
    assert load_model(str(result.model)).tokenizer.chat_template == path.read_text()
    with pytest.raises(InputError, match=r"chat_template: 'none.jinja' is no file"):
        align(job(chat_template="none.jinja"))
