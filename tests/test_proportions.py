"""Samples and real images in the classes' proportions, on a folder of 100, 50, 20 and 5 images."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scoring import GENERATION, inputs_of, write_reference
from toy_pipeline import MACHINE, write_encoder, write_image_artifact

from stages.core import artifact
from stages.core.distributed import share_out
from stages.core.schemas import Draws
from stages.data.reader import ImageSplit
from stages.evaluate.evaluator import open_evaluator
from stages.evaluate.frechet import fid
from stages.evaluate.protocol import proportions_apart
from stages.evaluate.samples import Samples
from stages.evaluate.score_generation import as_samples, score_val
from stages.generator.sample_conditions import labels_of

COUNTS, NAMES = (100, 50, 20, 5), ["many", "some", "few", "rare"]
COLORS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (220, 220, 220))


def draws(labels: str, per_class: int = 50) -> Draws:
    return Draws(per_class=per_class, labels=labels, seeds=[0])


@pytest.mark.parametrize(("total", "counts"), [
    (200, [100, 50, 20, 5]), (7, [1, 1, 1]), (3, [5, 5, 5, 1]), (0, [2, 3]), (50_000, [1300, 732, 1299, 1])
])  # fmt: skip
def test_shares_are_those_of_the_largest_remainders(total, counts):
    exact = [Fraction(total * count, sum(counts)) for count in counts]
    expected = [int(one) for one in exact]
    for _, place in sorted((int(one) - one, place) for place, one in enumerate(exact))[: total - sum(expected)]:
        expected[place] += 1
    assert share_out(total, counts).tolist() == expected and sum(expected) == total


def test_samples_have_the_proportions_of_the_train_images_or_are_equally_many_per_class():
    assert np.bincount(labels_of(list(COUNTS), draws("train"))).tolist() == [114, 57, 23, 6]
    assert np.bincount(labels_of(list(COUNTS), draws("equal"))).tolist() == [50] * 4
    assert np.bincount(labels_of([1000, 1, 1], draws("train", 1)), minlength=3).tolist() == [3, 0, 0]
    assert labels_of([7] * 3, draws("train", 2)).tolist() == [0, 0, 1, 1, 2, 2]
    assert labels_of([], draws("train", 3)).tolist() == [-1] * 3, "without classes"


@pytest.mark.parametrize(("there", "labels", "expected"), [
    ([33, 17, 7, 2], "train", [33, 17, 7, 2]),
    ([300, 200, 90, 50], "train", [114, 57, 23, 6]),  # never more than there are samples
    ([33, 17, 2, 2], "train", [13, 6, 2, 1]),  # the scarcest class decides
    ([20, 10, 4, 0], "train", [20, 10, 4, 0]),  # a class without val images is left out
    ([33, 17, 7, 2], "equal", [3, 3, 3, 2]),
])  # fmt: skip
def test_real_images_are_drawn_in_the_proportions_of_samples_and_none_twice(there, labels, expected):
    val = np.random.default_rng(0).permutation(np.repeat(np.arange(4), there))
    chosen = as_samples(val, labels_of(list(COUNTS), draws(labels)), seed=0)
    assert np.bincount(val[chosen], minlength=4).tolist() == expected
    assert (np.diff(chosen) > 0).all()


def test_without_classes_any_val_images_are_drawn():
    assert len(as_samples(np.full(30, -1), np.full(20, -1), 0)) == 20
    assert len(as_samples(np.arange(30), np.full(20, -1), 0)) == 20, "samples drawn without a class"
    assert len(as_samples(np.array([0, 0]), np.array([1, 1]), 0)) == 0


def test_the_distance_of_proportions():
    one, other = np.repeat([0, 1], [30, 10]), np.repeat([0, 1, 2], [1, 1, 2])
    assert proportions_apart(one, one) == proportions_apart(one, np.tile(one, 3)) == 0
    assert proportions_apart(one, other) == 0.5 and proportions_apart(one, np.array([2])) == 1
    assert proportions_apart(one, np.array([-1])) is None


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory):
    """Its evaluator with the embedded extractor alone, and the labels of both splits."""
    root, rng = tmp_path_factory.mktemp("unbalanced"), np.random.default_rng(0)
    labels = np.repeat(np.arange(4), COUNTS)
    shades = np.array(COLORS)[labels][:, None, None] + rng.normal(0, 30, (len(labels), 1, 1, 3))
    images = (shades + rng.normal(0, 20, (len(labels), 16, 16, 3))).clip(0, 255).astype(np.uint8)
    write_image_artifact(root / "images", images, labels, NAMES)
    write_encoder(root / "encoder")
    for name, facts in (("classifier", {"shape": None}), ("decoder", {})):
        with artifact.new_artifact(root / name, name, facts):
            pass
    toy = SimpleNamespace(root=root, **{name: root / name for name in ("images", "encoder", "classifier", "reference")})
    write_reference(toy.images, toy.encoder, toy.classifier, toy.reference, MACHINE)
    splits = {split: ImageSplit(toy.images, split).labels for split in ("train", "val")}
    return open_evaluator(inputs_of(toy), MACHINE, "cpu"), splits


def real_row(unbalanced, labels: str) -> tuple[dict, dict]:
    """Metrics and protocol of real images in place of 200 samples."""
    evaluator, splits = unbalanced
    drawn = labels_of(np.bincount(splits["train"], minlength=4).tolist(), draws(labels))
    samples = Samples(np.zeros((1, len(drawn), 16), int), drawn, {"labels": labels})
    return score_val(splits["val"], [samples], evaluator, GENERATION)


def fids_of_equal_distributions(unbalanced, count: int) -> list[float]:
    """FID of `count` real images in the train images' proportions against the rest, over 40 divisions of all images."""
    evaluator, splits = unbalanced
    both = evaluator.reference.train, evaluator.reference.val
    everything = torch.cat([part.features["embedded"][:] for part in both])
    labels, found = np.concatenate([splits["train"], splits["val"]]), []
    shares = share_out(count, np.bincount(splits["train"], minlength=4))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drawn = np.concatenate([rng.choice(np.flatnonzero(labels == one), share, replace=False)
                                for one, share in enumerate(shares)])  # fmt: skip
        rest = np.delete(np.arange(len(labels)), drawn)
        found.append(fid(everything[drawn], everything[rest]))
    return found


def test_real_images_drawn_as_samples_are_have_the_fid_of_equal_distributions(unbalanced):
    row, protocol = real_row(unbalanced, "train")
    known = fids_of_equal_distributions(unbalanced, row["images"])
    assert abs(row["gfid[embedded]"] - np.mean(known)) < 3 * np.std(known)
    assert row["images"] > 20 and protocol["proportions_apart"] < 0.03


def test_a_perfect_generator_is_far_from_unbalanced_images_where_every_class_is_drawn_equally_often(unbalanced):
    """Samples that are real val images of the class that was asked for."""
    evaluator, splits = unbalanced
    counts = np.bincount(splits["train"], minlength=4).tolist()

    def fid_of(labels: str, seed: int) -> float:
        rng, asked = np.random.default_rng(seed), labels_of(counts, draws(labels))
        drawn = [rng.choice(np.flatnonzero(splits["val"] == one)) for one in asked]
        return fid(*(of.features["embedded"] for of in (evaluator.reference.val.subset(np.array(drawn)),
                                                                evaluator.reference.train)))  # fmt: skip

    found = {labels: [fid_of(labels, seed) for seed in range(10)] for labels in ("train", "equal")}
    assert min(found["equal"]) > 2 * max(found["train"])
    assert real_row(unbalanced, "equal")[1]["proportions_apart"] > 0.3


def test_the_protocol_holds_the_proportions_of_both_sides(unbalanced):
    evaluator, splits = unbalanced
    row, protocol = real_row(unbalanced, "train")
    counts = np.bincount(splits["train"], minlength=4)
    assert protocol["reference_per_class"] == {"classes": 4, "min": counts.min(), "max": counts.max()}
    assert protocol["count"] == row["images"] and protocol["labels_drawn"] == "train"
    made = evaluator.describe("reconstruction", "val", splits["val"])
    assert made["per_class"] == made["reference_per_class"] and made["proportions_apart"] == 0
