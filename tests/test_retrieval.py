"""Retrieval by codes: recall at 1 and mean average precision against scikit-learn and against random rankings.

Run: uv run pytest tests/test_retrieval.py
"""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from stages.studies.code_survey import Survey
from stages.studies.retrieval import average_precision, expected_precision, nearness, rankings, retrieval

RNG = np.random.default_rng(0)


def survey(labels: np.ndarray, codes: np.ndarray, colors: np.ndarray | None = None) -> Survey:
    count = len(labels)
    colors = RNG.random((count, 4, 3)).astype(np.float32) if colors is None else colors
    return Survey(np.arange(count), codes, RNG.normal(size=(count, 5)).astype(np.float32), labels, colors)


def test_codes_that_say_the_class_find_it_and_random_features_do_not_exceed_chance():
    labels = np.arange(300) % 3
    known, asked = (survey(labels, labels[:, None] * 2 + RNG.integers(0, 2, (300, 8))) for _ in range(2))
    found = retrieval(known, asked, 6, 10, 0)
    assert found["bag"] == found["bag_map"] == 1 and found["bag_std"] == 0
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["features"] == pytest.approx(1 / 3, abs=0.12)
    assert found["features_map"] == pytest.approx(found["chance_map"], abs=0.02)


def test_average_precision_is_that_of_scikit_learn():
    scores, classes = RNG.random((7, 20)), np.arange(20) % 3
    hits = np.concatenate([*rankings(lambda asked, _: asked, scores, scores, np.arange(7) % 3, classes)])
    expected = [average_precision_score(classes == row % 3, scores[row]) for row in range(7)]
    assert average_precision(hits) == pytest.approx(expected)


def test_the_expected_precision_is_the_mean_over_random_rankings():
    hits = np.stack([RNG.permutation(np.arange(12) < 4) for _ in range(20000)])
    assert expected_precision(np.array([4]), 12) == pytest.approx(average_precision(hits).mean(), abs=0.005)
    assert expected_precision(np.array([1]), 1) == 1


def test_nearness_ranks_as_the_distance_does():
    asked, given = RNG.random((3, 6)), RNG.random((9, 6))
    distance = ((asked[:, None] - given) ** 2).sum(2)
    assert (np.argsort(-nearness(asked, given), 1) == np.argsort(distance, 1)).all()


def test_a_class_without_train_images_is_left_out_and_without_classes_nothing_is_ranked():
    codes = RNG.integers(0, 4, (6, 8))
    known = survey(np.array([0, 0, 1, 1, 1, 1]), codes)
    found = retrieval(known, survey(np.array([0, 1, 2, 2, 2, 2]), codes), 4, 3, 0)
    assert found["chance"] == pytest.approx((2 / 6 + 4 / 6) / 2)
    assert retrieval(known, survey(np.full(6, -1), codes), 4, 3, 0) == {"skipped": "no classes"}
