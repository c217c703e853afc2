"""DPO's and KTO's losses on one batch: ours and TRL's own trainers', to rounding.

Both libraries get the same rows, the same two models (a small Llama and a reference of other
weights), the same beta, and compute the first batch's loss with gradients.

    python benchmarks/trl_losses.py --json benchmarks/results/trl_losses.json
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.peaks import machine, save
from benchmarks.step import make_model, make_pairs, make_tokenizer

BAR = 1e-5


def models() -> tuple[Any, Any]:
    """A policy, and a reference whose weights are not the policy's.

    The reference finds the random words less likely than the policy does, so that KTO's estimate of
    the KL is above 0, where it is not cut off.
    """
    import torch

    policy, reference = make_model("tiny", "cpu", "float32"), make_model("tiny", "cpu", "float32")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy, reference


def rows(loss: str) -> Any:
    """Four pairs of uneven responses; for KTO each response by itself, with its label.

    Preferred ones come first, so that the row before each has another prompt: TRL estimates the KL
    from that row's response whatever its prompt.
    """
    from datasets import Dataset

    pairs = list(make_pairs(4, 9, 12, 512))
    for i, pair in enumerate(pairs):
        pair["rejected"] = " ".join(pair["rejected"].split()[: 4 + 2 * i])
        pair["rejected"] = " " + pair["rejected"]
    if loss == "dpo":
        return Dataset.from_list(pairs)
    return Dataset.from_list(
        [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for side in ("chosen", "rejected")
            for pair in pairs
        ]
    )


def gradient(model: Any) -> Any:
    """All of a model's gradients in one row."""
    import torch

    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def losses(loss: str) -> dict[str, tuple[float, Any]]:
    """Loss and gradient of the first batch in both libraries.

    Raises `RuntimeError` where KTO's KL is 0, which would leave its estimate untried.
    """
    import trl

    from riskalign import RSAConfig, RSATrainer

    peer: Any = trl
    found = {}
    for library in ("trl", "riskalign"):
        policy, reference = models()
        data = rows(loss)
        with tempfile.TemporaryDirectory() as folder:
            settings: dict[str, Any] = {
                "output_dir": folder,
                "per_device_train_batch_size": len(data),
                "beta": 0.3,
                "bf16": False,
                "use_cpu": True,
                "report_to": [],
                "max_length": None,
            }
            common = {
                "model": policy,
                "ref_model": reference,
                "train_dataset": data,
                "processing_class": make_tokenizer(512),
            }
            trainer: Any
            if library == "riskalign":
                args = RSAConfig(**settings, loss_type=loss, risk="mean")
                trainer = RSATrainer(args=args, **common)
            elif loss == "dpo":
                trainer = peer.DPOTrainer(args=peer.DPOConfig(**settings), **common)
            else:
                args = peer.KTOConfig(**settings, train_sampling_strategy="sequential")
                trainer = peer.KTOTrainer(args=args, **common)
            held = [trainer.train_dataset[i] for i in range(len(data))]
            batch = trainer._prepare_inputs(trainer.data_collator(held))
            value = trainer.compute_loss(trainer.model, batch)
            value.backward()
            if library == "riskalign" and loss == "kto":
                kl = trainer.row_losses(trainer.model, batch).metrics["kl"][0]
                if not kl > 0.05:
                    raise RuntimeError(f"the KL of this batch is {float(kl)}, too small to tell")
            found[library] = value.item(), gradient(trainer.model)
    return found


def main() -> None:
    """Parse the command line, compute and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    table: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for loss in ("dpo", "kto"):
        found = losses(loss)
        (theirs, theirs_grad), (ours, ours_grad) = found["trl"], found["riskalign"]
        by_gradient = float((ours_grad - theirs_grad).abs().max() / theirs_grad.abs().max())
        table.append({"loss": loss, "trl": theirs, "riskalign": ours, "gradient": by_gradient})
        for name, value in (("loss", abs(ours - theirs)), ("gradient, relative", by_gradient)):
            ratios.append(
                {
                    "name": f"{loss}: difference of the {name}",
                    "value": value,
                    "bar": BAR,
                    "holds": value <= BAR,
                }
            )
    columns = {"loss": "loss", "trl": "TRL", "riskalign": "riskalign", "gradient": "gradient"}
    results = {"machine": machine(), "rows": table, "ratios": ratios}
    save(results, options.json, "One batch's loss in both libraries", columns, {})


if __name__ == "__main__":
    main()
