"""Prompts in parts that are answered and scored on their own, by whichever process does it.

A part is a batch of sampling and nothing of it depends on another: the answers and scores are the
same to the last bit in one process and in many, where these compute alike (threads, device).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from riskalign.evaluation import ScoredAnswer
from riskalign.models import LoadedModel
from riskalign.models.backends import BACKENDS
from riskalign.models.merge import merge
from riskalign.models.sampling import Answer, shares
from riskalign.models.vllm import close_engine
from riskalign.pipeline.job import InMemory
from riskalign.pipeline.machine import for_inference
from riskalign.pipeline.measure import measure
from riskalign.pipeline.progress import Update
from riskalign.pipeline.settings import EvaluationConfig, SamplingConfig
from riskalign.worlds import Prompt, World, pairs

Parts = Sequence[Sequence[int]]


def parts_of(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    answers: int,
    batch_size: int,
    backend: str = "transformers",
) -> Parts:
    """The prompts' places, part by part, of `answers` answers each; those of an engine are one."""
    if backend != "transformers" or len({prompt.id for prompt in prompts}) < len(prompts):
        return [range(len(prompts))]
    options = {"answers_per_prompt": answers, "batch_size": batch_size, "processes": len(prompts)}
    return [own for own in shares(tokenizer, prompts, **options) if own]


@dataclass(frozen=True)
class Asked:
    """A model that is asked: one of a job's, or at `w` between that and `final`.

    That is the dial, or where `merged` the average of the weights.
    """

    name: str
    how: EvaluationConfig
    seed: int
    w: float | None = None
    merged: bool = False


def measured(
    asked: Asked,
    models: InMemory,
    world: World,
    prompts: Sequence[Prompt],
    update: Update,
    *,
    of: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, list[ScoredAnswer]]]:
    """The place of each prompt and its scored answers, part by part, as `measure` finds them.

    `of=(i, n)` takes the i-th part of n, and every n-th after it.
    """
    how, w = asked.how, asked.w
    start, policy, final = models("start", asked.name, asked.name if w is None else "final")
    model, dial_to = policy.model, None
    if w is not None and asked.merged:
        model = merge(model, final.model, w)
    elif w is not None:
        dial_to = final.model, w
    each, n = how.answers_per_prompt, len(prompts)
    known = n if how.distance_prompts is None else min(how.distance_prompts, n)
    size, backend = how.batch_size, how.backend
    parts = parts_of(start.tokenizer, prompts, answers=each, batch_size=size, backend=backend)
    done, total = 0, (n + known) * each
    for places in parts[of[0] :: of[1]]:
        near = sum(place < known for place in places)  # those come first

        def tell(position: int, _: int, note: str, before: int = done) -> None:
            update(before + position, total, note)

        found = measure(
            world,
            [prompts[place] for place in places],
            dataclasses.replace(how, distance_prompts=near),
            policy=model,
            start=start.model,
            tokenizer=start.tokenizer,
            seed=asked.seed,
            dial_to=dial_to,
            update=tell,
        )
        done += (len(places) + near) * each
        for i, place in enumerate(places):
            yield place, found[i * each : (i + 1) * each]


@dataclass(frozen=True)
class Drawn:
    """A prompt's scored answers, and the tokens that they have."""

    answers: list[pairs.Scored]
    tokens: int


def drawn(
    world: World,
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    update: Update,
    *,
    seed: int,
    bf16: bool,
    of: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, Drawn]]:
    """The place of each prompt and its answers, evenly over the temperatures, part by part.

    `of` is as in `measured`.
    """
    model, n = for_inference(loaded, bf16), len(sampling.temperatures)
    each = sampling.answers_per_prompt // n
    parts = parts_of(
        loaded.tokenizer,
        prompts,
        answers=each,
        batch_size=sampling.batch_size,
        backend=sampling.backend,
    )
    done, total = 0, len(prompts) * each * n
    for places in parts[of[0] :: of[1]]:
        some = [prompts[place] for place in places]
        answers: list[list[Answer]] = [[] for _ in some]
        for i, temperature in enumerate(sampling.temperatures):

            def tell(position: int, _: int, before: int = done) -> None:
                update(before + position, total, "")

            more = BACKENDS[sampling.backend](
                model,
                loaded.tokenizer,
                some,
                answers_per_prompt=each,
                temperature=temperature,
                top_p=sampling.top_p,
                max_new_tokens=sampling.max_new_tokens,
                batch_size=sampling.batch_size,
                seed=seed + i,
                progress=tell,
                **({"vllm": sampling.vllm} if sampling.backend == "vllm" else {}),
            )
            done += len(some) * each
            for of_prompt, new in zip(answers, more, strict=True):
                of_prompt += new
        if sampling.backend == "vllm":
            close_engine()  # the step trains next, and wants the whole device
        texts = [[answer.text for answer in own] for own in answers]
        scored = pairs.score_answers(world, some, texts)
        for place, own, row in zip(places, answers, scored, strict=True):
            yield place, Drawn(row, sum(len(answer.token_ids) for answer in own))


def in_order(found: Iterable[tuple[int, Any]], n: int) -> list[Any]:
    """What each of n prompts has, in their order.

    Raises `KeyError` where one has nothing.
    """
    rows: Mapping[int, Any] = dict(found)
    return [rows[place] for place in range(n)]
