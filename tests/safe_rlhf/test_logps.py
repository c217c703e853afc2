"""Log probabilities against the model's own logits."""

import math

import pytest
import torch

from riskalign.safe_rlhf import rollout
from riskalign.scorers.scalar import Sample, collate
from riskalign.tokens import Head
from tests import tiny

SAMPLES = [Sample([5, 6, 7], [9, 1]), Sample([8], [1]), Sample([5, 6, 7], [10, 11, 12])]


@pytest.mark.parametrize("elements", [1, 700, 1 << 20])
def test_against_the_models_logits(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_CHUNK_ELEMENTS", elements)
    model = tiny.make_model()
    batch = collate(SAMPLES, 2, True, torch.device("cpu"))
    logp, entropy = rollout.token_logps(model, batch, entropy=True)
    expected, entropies = [], []
    for prompt, response in SAMPLES:
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
        own = logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected.append(own.gather(-1, torch.tensor(response).unsqueeze(-1)).squeeze(-1))
        entropies.append(torch.distributions.Categorical(logits=own).entropy())
    torch.testing.assert_close(logp, torch.cat(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, torch.cat(entropies).detach(), rtol=1e-4, atol=1e-5)
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    [got] = torch.autograd.grad(logp.sum(), weight)
    [wanted] = torch.autograd.grad(torch.cat(expected).sum(), weight)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_impossible_tokens_count_for_nothing_in_the_entropy() -> None:
    """Two tokens of probability 1/2, and one whose logit is minus infinity."""
    head = Head(torch.eye(3), bias=torch.tensor([0.0, 0.0, -torch.inf]))
    with torch.no_grad():
        logp, entropy = rollout._chunk(torch.zeros(1, 3), head, torch.tensor([0]), True)
    assert logp.item() == pytest.approx(-math.log(2))
    assert entropy.item() == pytest.approx(math.log(2))
