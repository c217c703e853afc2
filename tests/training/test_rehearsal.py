"""A step without content keeps what a real one does, and grows along straight lines."""

from typing import Any

import pytest
import torch
from peft import LoraConfig

from riskalign.errors import InputError
from riskalign.training import rehearsal
from riskalign.training.rehearsal import Rehearsed, rehearse
from tests import tiny

ADAPTER = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def most(kept: Rehearsed, gradient: int) -> tuple[float, float, float]:
    return kept.forward, kept.held, float((kept.backward + gradient * kept.done).max())


@pytest.mark.parametrize(
    ("kind", "compute", "adapter", "checkpointing"),
    [
        ("llama", "autocast", None, False),
        ("llama", "fp32", ADAPTER, True),
        ("mixtral", "engine", None, True),
    ],
)
def test_two_and_three_layers_tell_of_all(
    kind: str,
    compute: Any,
    adapter: LoraConfig | None,
    checkpointing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a model of six alike layers keeps, gradients kept or not, to the last byte."""
    config = tiny.make_config(kind, num_hidden_layers=6)
    given: dict[str, Any] = {"adapter": adapter, "checkpointing": checkpointing}
    quick = rehearse(config, (2, 5, 9), compute, **given)
    monkeypatch.setattr(rehearsal, "_layers_alike", lambda *_: False)
    whole = rehearse(config, (2, 5, 9), compute, **given)
    assert len(quick.few.done) < len(whole.few.done)
    for own, wanted in ((quick.few, whole.few), (quick.many, whole.many)):
        assert [most(own, g) for g in (0, 4)] == [most(wanted, g) for g in (0, 4)]


def test_what_is_kept_by_hand() -> None:
    """A checkpointed layer keeps its input alone: H numbers a token, of 5 + 9 + 9 tokens."""
    for compute, size in (("fp32", 4), ("engine", 2)):
        few, less = (
            rehearse(
                tiny.make_config(num_hidden_layers=n),
                (1, 5, 9),
                compute,  # type: ignore[arg-type]
                checkpointing=True,
            )
            for n in (12, 11)
        )
        assert few.few.held - less.few.held == 23 * 32 * size
        assert few.at(3).held - less.at(3).held == 3 * 23 * 32 * size
        # Before the last gradient all but the head's, which is no concern of the body, are there.
        model = tiny.make_model(num_hidden_layers=12)
        total = sum(p.numel() for p in model.parameters())
        assert few.few.done[-1] == total - 2 * 304 * 32


def test_layers_that_differ_are_all_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    depths: list[int] = []
    run = rehearsal._run

    def seen(model: Any, *rest: Any) -> Any:
        depths.append(model.config.num_hidden_layers)
        return run(model, *rest)

    monkeypatch.setattr(rehearsal, "_run", seen)
    kinds = ["full_attention", "sliding_attention"] * 2
    config = tiny.make_config("gemma2", head_dim=8, num_hidden_layers=4, layer_types=kinds)
    rehearse(config, (1, 5, 9), "fp32")
    assert depths == [4, 4]


def test_layers_that_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(*_: Any) -> Any:
        if bool(torch.ones(2).sum() > 1):
            raise AssertionError("a tensor without content has a value")

    monkeypatch.setattr(rehearsal, "response_hidden", looks)
    with pytest.raises(InputError, match="'llama': its layers do not run on tensors without"):
        rehearse(tiny.make_config(), (1, 5, 9), "fp32")
