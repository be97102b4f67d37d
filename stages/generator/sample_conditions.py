"""What the samples of a generator are conditioned on: classes, captions of val images, or the prompts of a file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core import UserError, artifact
from stages.core.distributed import seed_of, share_out
from stages.core.schemas import Draws
from stages.generator.params import NO_PROMPTS, SampleDraws
from stages.text.reader import ENCODER, load_encoder, load_texts

CAPTIONS = "captions.txt"  # of a samples artifact: a caption per sample
Given = Callable[[int, int], Tensor]  # first and last sample -> the input of the network


@dataclass(frozen=True)
class SampleConditions:
    """Of every sample of a seed: its class, int64 [samples], -1 without; its caption, if captions condition it."""

    labels: np.ndarray
    given: Given
    facts: dict[str, Any]  # for the config.json of samples
    captions: list[str] = field(default_factory=list)


def sample_conditions(
    generator: Path, config: dict[str, Any], text: Path | None, draws: SampleDraws
) -> SampleConditions:
    """Of a generator artifact with this config; `text` is the text artifact of its captions."""
    if "text_encoder" not in config:
        labels = labels_of(trained_classes(generator, config), draws)
        given = np.where(labels < 0, len(config["classes"]), labels)
        facts = {"labels": draws.labels if config["classes"] else "none"}
        return SampleConditions(labels, lambda start, stop: torch.from_numpy(given[start:stop]), facts)
    if draws.prompts != NO_PROMPTS:
        return prompts_of(generator, Path(draws.prompts), draws.per_class)
    if text is None or artifact.digest(text) != config["inputs"]["text"]:
        raise UserError(f"{generator}: trained with other captions than those of {text}. Run `dvc repro generator`.")
    return val_captions(text, draws.per_class * max(1, len(config["classes"])))


def val_captions(text: Path, count: int) -> SampleConditions:
    """One caption each of `count` val images, evenly spaced among those that have captions, by class."""
    texts = load_texts(text, "val")
    captioned = np.flatnonzero(np.diff(texts.first) > 0)
    if not len(captioned):
        raise UserError(f"{text}: no val image has a caption to draw samples for; set samples.draws.prompts")
    images = captioned[np.arange(count) * len(captioned) // count]
    images = images[np.argsort(texts.labels[images], kind="stable")]
    which = np.random.default_rng(seed_of("captions of samples")).random(count)
    rows = texts.drawn_rows(images, which)
    captions = [texts.captions[row : row + 1][0] for row in rows.tolist()]
    return SampleConditions(
        texts.labels[images], lambda start, stop: texts.given(rows[start:stop]), {"labels": "val captions"}, captions
    )


def prompts_of(generator: Path, path: Path, per_prompt: int) -> SampleConditions:
    """`per_prompt` samples of each line of a file."""
    prompts = read_prompts(path)
    encoder, encoded = load_encoder(generator / ENCODER), []
    for number, prompt in enumerate(prompts, 1):
        try:
            encoded.append(encoder.encode(prompt))
        except UserError as error:
            raise UserError(f"{path}: line {number}: {error}") from None
    given = torch.stack(encoded).repeat_interleave(per_prompt, 0)
    captions = [prompt for prompt in prompts for _ in range(per_prompt)]
    return SampleConditions(
        np.full(len(captions), -1), lambda start, stop: given[start:stop], {"labels": "prompts"}, captions
    )


def read_prompts(path: Path) -> list[str]:
    """The lines of a file; `UserError` names one that is empty or not UTF-8."""
    lines = path.read_bytes().removeprefix("\ufeff".encode()).splitlines()
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            prompts.append(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: line {number}: not UTF-8 ({error.reason} at byte {error.start})") from None
        if not prompts[-1].strip():
            raise UserError(f"{path}: line {number}: empty, expected a caption")
    if not prompts:
        raise UserError(f"{path}: holds no prompt")
    return prompts


def trained_classes(generator: Path, config: dict[str, Any]) -> list[int]:
    """Train images of each class; `UserError` unless every class that could be drawn has some."""
    counts = config.get("train_per_class", [])
    if len(counts) != len(config["classes"]) or 0 in counts:
        raise UserError(f"{generator}: does not show that each class had train images. Run `dvc repro generator`.")
    return counts


def labels_of(train_per_class: list[int], draws: Draws) -> np.ndarray:
    """Class number of each sample, int64 [samples], ascending; -1 without classes.

    In proportion to the train images a rare class may get no sample. FID compares proportions, too: equally many of
    every class are far from unbalanced real images, however good each sample is.
    """
    classes = len(train_per_class)
    if not classes:
        return np.full(draws.per_class, -1)
    weights = train_per_class if draws.labels == "train" else [1] * classes
    return np.repeat(np.arange(classes), share_out(classes * draws.per_class, weights))
