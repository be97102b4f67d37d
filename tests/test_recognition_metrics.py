"""Mean IoU with its ceiling and average precision, against values that were computed by hand.

Run: uv run pytest tests/test_recognition_metrics.py
"""

import numpy as np
import pytest

from stages.recognition.average_precision import Boxes, average_precision
from stages.recognition.miou import IGNORED, confusion, enlarged, ious, majority, scores

CLASSES = 4


@pytest.fixture
def labels() -> np.ndarray:
    """Blobs of three classes on a background, of 12 px."""
    rng, maps = np.random.default_rng(0), np.zeros((20, 12, 12), np.int64)
    for one in maps:
        for kind in (1, 2, 3):
            top, left = rng.integers(0, 9, 2)
            one[top : top + rng.integers(1, 6), left : left + rng.integers(1, 6)] = kind
    return maps


def test_iou_of_a_case_by_hand():
    labels = np.array([[[0, 0, 1], [0, 1, 1], [IGNORED, 2, 2]]])
    found = np.array([[[0, 1, 1], [0, 1, 0], [2, 2, 1]]])
    counts = confusion(labels, found, CLASSES)
    assert counts.sum() == 8 and counts[0, 1] == 1 and counts[2, 1] == 1
    assert ious(counts)[:3] == pytest.approx([2 / 4, 2 / 5, 1 / 2]) and np.isnan(ious(counts)[3])
    right = scores(counts, background=True)
    assert right["miou"] == pytest.approx((0.5 + 0.4 + 0.5) / 3) and right["miou_objects"] == pytest.approx(0.45)
    assert right["pixel_accuracy"] == 5 / 8 and "miou_objects" not in scores(counts, background=False)


def test_a_perfect_predictor_has_miou_1_and_at_the_resolution_of_the_grid_exactly_the_ceiling(labels):
    assert scores(confusion(labels, labels, CLASSES), True) == {"miou": 1, "pixel_accuracy": 1, "miou_objects": 1}
    for grid in (3, 4, 5, 12):
        best = majority(labels, grid, CLASSES)
        ceiling = scores(confusion(labels, best, CLASSES), True)
        as_pixels = scores(confusion(labels, enlarged(best, (12, 12)), CLASSES), True)
        assert ceiling == as_pixels and (ceiling["miou"] == 1) == (grid == 12)
        for other in range(200):  # no other labels of the cells get more pixels right
            changed = best.copy()
            changed.flat[np.random.default_rng(other).integers(best.size)] = other % CLASSES
            assert scores(confusion(labels, changed, CLASSES), True)["pixel_accuracy"] <= ceiling["pixel_accuracy"]


def test_a_random_predictor_has_the_miou_of_its_shares(labels):
    many = labels.repeat(200, 0)
    found = np.random.default_rng(1).integers(0, CLASSES, many.shape)
    share = np.bincount(many.ravel(), minlength=CLASSES) / many.size
    guess = 1 / CLASSES
    expected = share * guess / (share + guess - share * guess)
    assert ious(confusion(many, found, CLASSES)) == pytest.approx(expected, rel=0.05)


def test_majority_of_cells_without_a_label_and_of_ties():
    labels = np.full((1, 4, 4), IGNORED)
    labels[0, :2, 2:] = [[3, 3], [1, 1]]
    labels[0, 2:, :2] = [[2, IGNORED], [IGNORED, IGNORED]]
    assert majority(labels, 2, CLASSES).tolist() == [[[0, 1], [2, 0]]]


def boxes(*rows: tuple[float, ...]) -> Boxes:
    """Rows x0, y0, x1, y1, class, score."""
    table = np.array(rows, float).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4].astype(int), table[:, 5])


TRUTH = [boxes((0, 0, 10, 10, 1, 0), (20, 20, 30, 30, 1, 0)), boxes((5, 5, 15, 15, 2, 0)), boxes()]


def test_a_perfect_detector_has_ap_1_and_one_that_finds_nothing_0():
    sure = [one._replace(scores=np.ones(len(one.classes))) for one in TRUTH]
    assert average_precision(TRUTH, sure, 2) == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1})
    assert average_precision(TRUTH, [boxes()] * 3, 2) == {"ap": 0, "ap50": 0, "ap75": 0}
    wrong = [one._replace(classes=3 - one.classes) for one in sure]
    assert average_precision(TRUTH, wrong, 2)["ap50"] == 0


def test_ap_of_a_case_by_hand():
    # Class 1: first a box of IoU .8 with the first true one, then a miss, then the second true one exactly.
    # At IoU .5 to .8 precision is 1 up to recall .5 (51 of COCO's 101 points), then 2/3; above only the last is right,
    # of precision 1/3 up to recall .5.
    found = [boxes((0, 0, 10, 8, 1, 0.9), (40, 40, 50, 50, 1, 0.8), (20, 20, 30, 30, 1, 0.7)), boxes(), boxes()]
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
    first = average_precision(TRUTH[:1] + [boxes()] * 2, found, 1)
    assert first["ap50"] == pytest.approx(low) and first["ap75"] == pytest.approx(low)
    assert first["ap"] == pytest.approx((7 * low + 3 * high) / 10)
    both = average_precision(TRUTH, found, 2)  # class 2, which is there and not found, counts as 0
    assert both["ap"] == pytest.approx(first["ap"] / 2)


def test_equal_scores_in_another_order_give_the_same_ap():
    found = [boxes((0, 0, 10, 8, 1, 0.5), (40, 40, 50, 50, 1, 0.5), (20, 20, 30, 30, 1, 0.5)), boxes(), boxes()]
    turned = [Boxes(*(part[::-1] for part in found[0][:3])), *found[1:]]
    assert average_precision(TRUTH, found, 2) == average_precision(TRUTH, turned, 2)


def test_a_box_in_a_crowd_counts_neither_for_nor_against():
    crowd = boxes((0, 0, 10, 10, 1, 0), (20, 20, 40, 40, 1, 0))._replace(crowds=np.array([False, True]))
    found = [boxes((22, 22, 30, 30, 1, 0.9), (0, 0, 10, 10, 1, 0.8))]
    assert average_precision([crowd], found, 1)["ap"] == pytest.approx(1)
