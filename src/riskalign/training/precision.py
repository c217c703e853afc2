"""Whether bf16 autocast makes a device faster."""

import torch


def bf16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether a device multiplies bf16 matrices faster than float32 ones.

    A processor without such instructions computes the same values ten times slower than in
    float32, and nothing says so. AVX-512's bf16 instructions alone do not make up for it:
    docs/log.md.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch >= 2.10
    found = {} if get_capabilities is None else get_capabilities()
    return any(found.get(name) for name in ("amx_bf16", "bf16"))
