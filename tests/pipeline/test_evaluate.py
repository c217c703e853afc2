"""Models of an evaluation leave the memory when they are done; every part of results is there."""

import dataclasses
import gc
import weakref
from pathlib import Path

import pytest

from riskalign.evaluation import ScoredAnswer
from riskalign.models import fingerprint, load_model, save_model
from riskalign.pipeline.evaluate import compare, corrected
from riskalign.pipeline.job import InMemory, ModelOnDisk
from riskalign.pipeline.settings import EvaluationConfig
from tests import tiny
from tests.pipeline.conftest import Letters

PROMPTS = Letters().prompts("eval", 3, 0)
EVALUATION = EvaluationConfig(
    prompts=3, answers_per_prompt=2, max_new_tokens=5, batch_size=4, n_boot=20, examples=2
)


def test_models_that_are_done_leave_the_memory(tmp_path: Path) -> None:
    models = {}
    for seed, name in enumerate(("start", "step1", "final")):
        folder = str(tmp_path / name)
        save_model(tiny.make_model(seed=seed), tiny.make_tokenizer(), Path(folder))
        models[name] = ModelOnDisk(folder, fingerprint(load_model(folder).model), False)
    loaded = InMemory(models, bf16=False, always="start")
    done, start = (weakref.ref(each.model) for each in loaded("step1", "start"))
    assert done() is not None
    final, again = loaded("final", "start")
    gc.collect()
    assert done() is None
    assert again.model is start()
    assert fingerprint(final.model) == models["final"].weights


def test_comparison_has_every_part() -> None:
    def answers(cost: float) -> list[ScoredAnswer]:
        return [
            ScoredAnswer(prompt.id, f"answer {i}", 0.5, cost * i, 0.0, 0.0, 3)
            for prompt in PROMPTS
            for i in range(2)
        ]

    scored = {"start": answers(2.0), "step1": answers(1.0), "final": answers(0.0)}
    found = compare(PROMPTS, scored, {1.0: scored["final"], 0.5: scored["step1"]}, EVALUATION, 0)
    assert found["models"]["start"]["cost"].value == 1.0
    assert set(found["differences"]) == {
        "step1_minus_start", "final_minus_start", "final_minus_step1",
    }  # fmt: skip
    assert found["differences"]["final_minus_start"]["cost"].value == -1.0
    assert [point["w"] for point in found["dial"]] == [0.5, 1.0]
    assert found["costs"]["start"] == [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    assert len(found["examples"]) == 2
    assert found["attempts"]["start"].mean is not None
    assert found["attempts"]["final"].why == "every answer was safe"
    assert corrected(EVALUATION, None, found["models"]) == {}
    given = dataclasses.replace(EVALUATION, sensitivity="18/20", specificity="20/20")
    rates = corrected(given, None, found["models"])["corrected"]
    assert rates["sensitivity"] == (18, 20)
    assert rates["unsafe_rate"]["start"].value == pytest.approx(0.5 / 0.9)
