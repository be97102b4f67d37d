"""Protocols that differ are never set side by side; what differs is named. Run: uv run pytest tests/test_protocol.py"""

import copy

import numpy as np
import pytest
from scoring import GENERATION, inputs_of
from toy_pipeline import MACHINE

from stages.evaluate.evaluator import open_evaluator, print_singular
from stages.evaluate.set_scores import describe
from stages.report.tables import Row, differences, differing_keys, tables

HOW = {"labels_drawn": "equal", "sampler": {"top_p": 0.9}, "seeds": [0, 1], "decoding_precision": "bf16"}


@pytest.fixture(scope="module")
def protocol(digits_toy):
    """Of 60 samples, as generation writes it."""
    import torch

    evaluator = open_evaluator(inputs_of(digits_toy), MACHINE, torch.device("cpu"))
    return describe("ar", np.arange(60) % 10, evaluator, GENERATION, **HOW)


CHANGES = {  # what may not agree -> key, another value, what is said
    "reference": ("reference", "val", "reference (train and val)"),
    "digest": ("reference_digest", "0123456789ab", "and 0123456789ab)"),
    "reference's count": ("reference_count", 50_000, "and 50000)"),
    "count": ("count", 500, "count (60 and 500)"),
    "samples per class": ("per_class", {"classes": 10, "min": 5, "max": 7}, "per_class.min (6 and 5)"),
    "proportions of the classes": ("proportions_apart", 0.3, "and 0.3)"),
    "crop": ("crop", "folder, 16 px square, resize", "and folder, 16 px square, resize)"),
    "weights": ("extractors.embedded.weights_sha256", "ab" * 32, "extractors.embedded.weights_sha256 ("),
    "covariance": ("extractors.embedded.covariance", "singular: 20 images", "(full rank and singular: 20 images)"),
    "labels drawn": ("labels_drawn", "train", "labels_drawn (equal and train)"),
    "decoding precision": ("decoding_precision", "fp32", "decoding_precision (bf16 and fp32)"),
    "evaluator's version": ("evaluator", "KID, IS: torch-fidelity 0.5.0; others: semtok", "evaluator ("),
    "neighbors": ("prc_neighbors", 5, "prc_neighbors (3 and 5)"),
    "KID's subsets": ("kid_subset_size", 1000, "kid_subset_size (40 and 1000)"),
    "seed of the subset": ("reference_seed", 1, "reference_seed (0 and 1)"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_difference_is_named_with_both_values_and_its_row_has_a_table_of_its_own(protocol, kind):
    key, value, said = CHANGES[kind]
    other = copy.deepcopy(protocol)
    *path, last = key.split(".")
    place = other
    for part in path:
        place = place[part]
    assert place[last] != value
    place[last] = value
    [*found] = differences(protocol, other)
    assert said in " ".join(found) and all(one.startswith(key) for one in found)
    shown = tables(["name"], [Row(["a"], {"gfid": "1"}, protocol), Row(["b"], {"gfid": "2"}, other)])
    assert [table.differs for table in shown] == [[], [key.partition(".")[0]]] == [[], differing_keys(protocol, other)]


def test_what_is_compared_may_differ(protocol):
    other = {**protocol, "of": "masked", "sampler": {"steps": 8}, "seeds": [2]}
    assert differences(protocol, other) == [] == differences(protocol, protocol)
    assert len(tables(["name"], [Row([name], {}, one) for name, one in (("a", protocol), ("b", other))])) == 1


def test_a_singular_covariance_is_said_aloud_with_the_counts(digits_toy, capsys):
    import torch

    evaluator = open_evaluator(inputs_of(digits_toy), MACHINE, torch.device("cpu"))
    entries = [describe("ar", np.arange(count) % 10, evaluator, GENERATION) for count in (32, 60)]
    print_singular("generation", entries)
    lines = capsys.readouterr().out.splitlines()
    assert "generation: ar: warning: the covariance of fid[embedded] is singular: 32 images span at most 31" in lines[0]
    assert all("32 images" in line for line in lines), "none for 60 images"
