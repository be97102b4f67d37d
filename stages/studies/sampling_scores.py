"""Scores of a generator's samples at every point of the grids, each kept in scratch/ as soon as it is known."""

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.hardware import pick_device
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.core.results import write_metrics
from stages.core.scratch import read_hashed, scratch, write_hashed
from stages.decoder.decoder import check_drawn, load_decoder
from stages.evaluate.evaluator import decode, open_evaluator
from stages.evaluate.params import GenerationParams
from stages.evaluate.score_generation import as_samples, over_seeds, score_real
from stages.evaluate.set_scores import describe, set_metrics, skipped
from stages.generator.alternating_params import kind_named
from stages.generator.editing import check_fills, random_codes
from stages.generator.open_network import open_network
from stages.generator.params import Sampling
from stages.generator.sample_conditions import labels_of, trained_classes
from stages.generator.transformer import check_unconditional
from stages.studies.edited_images import save_edited
from stages.studies.params import SamplingStudy
from stages.studies.sampling_grids import Grid, Inputs, Point
from stages.tokens.reader import Tokens, load_tokens

KID = "gkid_skipped"
BASE_BYTES = 15 * 10**8  # Python, its libraries, the networks, the reference and a batch


def measure(
    inputs: Inputs, report: Path, own: Sampling, grids: dict[str, Grid], params: SamplingStudy, machine: Machine
) -> None:
    """Write metrics.json and pictures/ to the folder `report`."""
    points = {point.key: point for grid in grids.values() for _, point in grid}
    points |= {(first := Point(own, None)).key: first} if grids else {}
    check(inputs, [*points.values()])
    print_cost_estimate("sampling", report, {"combinations": len(points)}, 10**7, BASE_BYTES)
    metrics: dict[str, Any] = {"images": artifact.images_digest(inputs.images), "generator": facts_of(inputs, own)}
    # The lists are no part of the key: scores of a point stay when others are added, and are never removed as finished.
    with scratch(report, params.model_copy(update={"grids": {}, "edited_images": 0}), [*vars(inputs).values()]) as work:
        if grids:
            scorer = Scorer(inputs, params, machine)
            scores = {key: scorer.kept(work / f"{key}.json", points[key]) for key in progress(report, points)}
            metrics |= {"own": scores[Point(own, None).key], "val": scorer.val()}
            metrics["protocol"] = scorer.protocol([*points.values()])
            metrics["grids"] = [rows_of(*one, scores, scorer.network.num_patches) for one in grids.items()]
        if params.edited_images:
            metrics["edited"] = [save_edited(inputs, report / "pictures", own, params, machine)]
        write_metrics(report, metrics)


def check(inputs: Inputs, points: list[Point]) -> None:
    """`UserError` for artifacts that do not belong together, and points that the generator cannot draw."""
    config = artifact.read_config(inputs.generator, "generator")
    check_drawn(inputs.generator, config, inputs.decoder)
    artifact.check_made_from(inputs.generator, f"generator@{inputs.generator.name}", tokens=inputs.tokens)
    if any(point.settings.guidance != 1 for point in points):
        check_unconditional(inputs.generator, config, "sampling: guidance")
    kind = import_kind(kind_named(config["kind"]).module)
    if any(point.real_codes is not None for point in points):
        check_fills(kind, config["kind"])


def facts_of(inputs: Inputs, own: Sampling) -> dict[str, Any]:
    """Names and kind of the generator, and its own settings as a text."""
    config = artifact.read_config(inputs.generator, "generator")
    names = {key: config[key] for key in ("name", "kind", "tokenizer")}
    decoder = artifact.read_config(inputs.decoder, "decoder")["name"]
    return {**names, "decoder": decoder, "settings": json.dumps(own.model_dump())}


def progress(report: Path, points: dict[str, Point]) -> Any:
    """The keys of all points, with a progress bar."""
    with bar(f"sampling {report.name}", len(points), 0, "combination") as shown:
        for key in points:
            yield key
            shown.update()


def rows_of(name: str, grid: Grid, scores: dict[str, dict[str, Any]], num_patches: int) -> dict[str, Any]:
    """A grid as a list of its points; lists are left out by `dvc metrics show`."""
    return {
        "name": name,
        "points": [
            {
                "changes": changes,
                "passes": point.settings.passes(num_patches),
                "protocol": "samples" if point.real_codes is None else "continued",
                "metrics": scores[point.key],
            }
            for changes, point in grid
        ],
    }


class Scorer:
    """Draws, decodes and scores samples of one generator."""

    def __init__(self, inputs: Inputs, params: SamplingStudy, machine: Machine):
        self.inputs, self.params, self.size, self.device = (
            inputs, params, machine.infer_batch_size, pick_device(machine.device)
        )  # fmt: skip
        self.network, config, self.kind = open_network(inputs.generator, self.device)
        self.labels = labels_of(trained_classes(inputs.generator, config), params.draws)
        self.decoder = load_decoder(inputs.decoder, self.device, params.decoding_precision)
        self.evaluator = open_evaluator(inputs, machine, self.device)
        # Without KID, which says what FID says and takes as long as all else.
        facts = {"kid_subset_size": sys.maxsize, "neighbors_shown": 1, "seed": params.seed}
        facts |= {"bootstrap_draws": 0, "fid_counts": 0}
        self.scoring = GenerationParams(decoding_precision=params.decoding_precision, **facts)

    def kept(self, path: Path, point: Point) -> dict[str, float]:
        """The scores of a point, from the file `path` if they are there, else computed and written to it."""
        if (found := read_hashed(path)) is None:
            found = json.dumps(self.score(point)).encode()
            write_hashed(path, found)
        return json.loads(found)

    def score(self, point: Point) -> dict[str, float]:
        """Means over the seeds, with deviations from two seeds on."""
        labels = self.labels if point.real_codes is None else self.val_labels
        return over_seeds([self.score_seed(point, labels, seed) for seed in self.params.draws.seeds])

    def score_seed(self, point: Point, labels: np.ndarray, seed: int) -> dict[str, float]:
        """The scores of the samples of one seed."""
        known = None if point.real_codes is None else self.known(point.real_codes, seed)
        starts = range(0, len(labels), self.size)
        codes = np.concatenate([self.draw(point.settings, labels, known, seed, start) for start in starts])
        images = self.evaluator.extract_all(
            len(codes), lambda batch: decode(self.decoder, codes[batch.start : batch.stop], seed)
        )
        return set_metrics(images, labels, self.evaluator, self.scoring)

    def draw(
        self, settings: Sampling, labels: np.ndarray, known: np.ndarray | None, seed: int, start: int
    ) -> np.ndarray:
        """Codes of the samples from number `start` on, at most a batch, int64 [B, N]; around `known` [M, N]."""
        batch = slice(start, start + self.size)
        given = torch.from_numpy(labels[batch]).to(self.device)
        given = torch.where(given < 0, self.network.num_classes, given)
        if known is None:
            return self.kind.sample(self.network, given, settings, seed, start).cpu().numpy()
        around = torch.from_numpy(known[batch]).to(self.device)
        return self.kind.fill(self.network, given, around, settings, seed, start).cpu().numpy()

    def known(self, share: float, seed: int) -> np.ndarray:
        """Codes of the chosen val images, int64 [M, N], `num_codes` except in a share: the first, or some at random."""
        codes, count = self.val_tokens.codes[0][self.chosen].astype(np.int64), self.network.num_patches
        given = min(count - 1, round(share * count))
        drawn = np.broadcast_to(np.arange(count) >= given, codes.shape)
        if self.kind.FILLS == "any":
            drawn = random_codes(len(codes), count, (count - given) / count, seed)
        return np.where(drawn, self.network.num_codes, codes)

    @cached_property
    def val_tokens(self) -> Tokens:
        return load_tokens(self.inputs.tokens, "val")

    @cached_property
    def chosen(self) -> np.ndarray:
        """Numbers of val images in the samples' proportions of the classes; `UserError` for fewer than two."""
        found = as_samples(self.val_tokens.labels, self.labels, self.params.seed)
        if len(found) < 2:
            raise UserError("sampling: fewer than two val images in the samples' proportions of the classes")
        return found

    @property
    def val_labels(self) -> np.ndarray:
        return self.val_tokens.labels[self.chosen]

    def val(self) -> dict[str, Any]:
        """The scores of the chosen val images themselves."""
        features = self.evaluator.reference.val.subset(self.chosen)
        found = score_real(features, self.val_labels, self.evaluator, self.scoring)
        return {name: value for name, value in found.items() if name != KID}

    def protocol(self, points: list[Point]) -> list[dict[str, Any]]:
        """Of the samples, of those that begin with real codes, if there are any, and of val images."""
        how = {"decoding_precision": self.params.decoding_precision, "seeds": self.params.draws.seeds}
        labels = {"samples": self.labels, "continued": self.val_labels, "val": self.val_labels}
        if all(point.real_codes is None for point in points):
            labels.pop("continued")
        entries = [
            {**describe(of, one, self.evaluator, self.scoring, **how), **skipped(one, self.evaluator, self.scoring)}
            for of, one in labels.items()
        ]
        return [{name: value for name, value in one.items() if name not in (KID, "kid_subset_size")} for one in entries]
