"""Training on groups of answers: the same as on all their pairs, however it is computed."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from riskalign.errors import InputError
from riskalign.training import RSATrainer
from tests import tiny

MakeTrainer = Callable[..., RSATrainer]
ANSWERS = ("It comes on Tuesday.", "I am sorry.", "Ask again, please.", "No.")


def make_groups(n: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": "When?" + " Please." * i}],
            "completions": [[{"role": "assistant", "content": a}] for a in ANSWERS[: 2 + i % 3]],
            "scores": [0.7 * ((3 * i + j) % 5) for j in range(2 + i % 3)],
        }
        for i in range(n)
    ]


def all_pairs(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for group in groups:
        scored = zip(group["completions"], group["scores"], strict=True)
        ordered = sorted(scored, key=lambda answer: -answer[1])
        for (chosen, more), (rejected, less) in itertools.combinations(ordered, 2):
            rows.append(
                {
                    "prompt": group["prompt"],
                    "chosen": chosen,
                    "rejected": rejected,
                    "score_chosen": more,
                    "score_rejected": less,
                }
            )
    return rows


def gradient(trainer: RSATrainer) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the first batch."""
    model: Any = trainer.model
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.row_losses(model, batch).loss.mean()
    model.zero_grad()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("loss", ["dpo", "rsa1", "rsa2"])
@pytest.mark.parametrize("target", ["gap", "soft", "hard"])
def test_a_group_trains_as_its_pairs_do(make_trainer: MakeTrainer, loss: str, target: str) -> None:
    settings: dict[str, Any] = {"loss_type": loss, "target": target, "beta": 0.5}
    groups = make_groups(3)[2:]  # one group of four answers
    pairs = all_pairs(groups)
    one = gradient(
        make_trainer(
            trainer={"train_dataset": groups, "ref_model": tiny.make_model(seed=1)},
            per_device_train_batch_size=1,
            **settings,
        )
    )
    other = gradient(
        make_trainer(
            trainer={"train_dataset": pairs, "ref_model": tiny.make_model(seed=1)},
            per_device_train_batch_size=len(pairs),
            **settings,
        )
    )
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    torch.testing.assert_close(one[1], other[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("settings", [{"chunk_size": 5}, {"shared_prompt": False}])
def test_the_way_of_computing_does_not_matter(
    make_trainer: MakeTrainer, settings: dict[str, Any]
) -> None:
    def run(**more: Any) -> tuple[float, torch.Tensor]:
        return gradient(
            make_trainer(
                trainer={"train_dataset": make_groups(), "ref_model": tiny.make_model(seed=1)},
                target="gap",
                **more,
            )
        )

    one, other = run(), run(**settings)
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    torch.testing.assert_close(one[1], other[1], rtol=1e-3, atol=1e-5)


def test_cached_references_and_small_batches_train_alike(make_trainer: MakeTrainer) -> None:
    def run(**settings: Any) -> list[float]:
        trainer = make_trainer(
            trainer={"train_dataset": make_groups(8)}, target="gap", num_train_epochs=2, **settings
        )
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    expected = run()
    for settings in (
        {"cache_reference": "memory"},
        {"cache_reference": "disk"},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    ):
        torch.testing.assert_close(run(**settings), expected, rtol=1e-4, atol=1e-6)


def test_groups_and_pairs_in_one_trainer(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        trainer={"train_dataset": make_groups(), "eval_dataset": tiny.make_pairs(4)}, target="gap"
    )
    trainer.train()
    assert trainer.evaluate()["eval_rewards/accuracies"] >= 0


def test_scores_are_cut_off_below_their_rows_best(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    group = {
        "prompt": "a",
        "completions": ["b", "c", "d"],
        "scores": [3.0, -9.0, 2.5],
    }
    trainer = make_trainer(trainer={"train_dataset": [group]}, target="gap", beta=0.5, max_gap=4.0)
    rows: Any = trainer.train_dataset
    assert rows["scores"][0] == [3.0, 1.0, 2.5]  # 4 nats are 2 in units of the margin
    assert trainer.data_counts["train_dataset"].cut_scores == 1
    assert "1 scores cut off" in caplog.text
    more = [group, group | {"completions": ["b", "c"], "scores": [0.0, 1.0]}, group]
    trainer = make_trainer(trainer={"train_dataset": more}, target="gap", beta=0.5, max_gap=4.0)
    rows = trainer.train_dataset
    assert rows["scores"][:] == [[3.0, 1.0, 2.5], [0.0, 1.0], [3.0, 1.0, 2.5]]
    assert trainer.data_counts["train_dataset"].cut_scores == 2
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 3, "score_rejected": 0}
    trainer = make_trainer(
        trainer={"train_dataset": [pair]}, target="soft", beta=0.5, max_gap=4.0, gap_scale=2.0
    )
    rows = trainer.train_dataset
    assert rows["gap"][0] == 1.0


def test_what_does_not_go_with_groups_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match="groups of scored answers"):
        make_trainer(trainer={"train_dataset": make_groups()}, loss_type="kto")
    with pytest.raises(InputError, match="max_gap: "):
        make_trainer(max_gap=3.0)
    with pytest.raises(InputError, match=r"max_gap: 0\.0"):
        make_trainer(max_gap=0.0, target="gap")
