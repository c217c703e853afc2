"""bf16 is taken for fast only where the processor says so."""

import pytest
import torch

from riskalign.training.modules import bf16_is_fast


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"amx_bf16": True}, True),
        ({}, False),
    ],
)
def test_processor_decides(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert bf16_is_fast() is fast
    assert bf16_is_fast("meta") is False
