"""COCO's average precision of boxes, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

AP, AP50, AP75 = range(3)  # places in pycocotools' list of results


class Boxes(NamedTuple):
    """Boxes of one image: float [n, 4] x0, y0, x1, y1 in pixels; classes int64 [n] from 1.

    `scores`, float [n], of found boxes; `crowds`, bool [n], of true ones: a crowd counts neither for nor against.
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    crowds: np.ndarray | None = None


def average_precision(truth: Sequence[Boxes], found: Sequence[Boxes], num_classes: int) -> dict[str, float]:
    """AP over IoU .5 to .95, AP50, AP75: means over the classes that occur; at most 100 boxes per image count.

    Boxes of all sizes count alike: COCO's thresholds are in pixels of its own images. Found boxes are sorted, since
    the order of equal scores counts.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        real = opened(truth, num_classes)
        results = sorted(
            (entry for number, boxes in enumerate(found) for entry in entries(number, boxes)),
            key=lambda entry: (-entry["score"], entry["image_id"], entry["bbox"]),
        )
        if not results:
            return dict.fromkeys(("ap", "ap50", "ap75"), 0.0)
        evaluation = COCOeval(real, real.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[place]) for name, place in (("ap", AP), ("ap50", AP50), ("ap75", AP75))}


def opened(truth: Sequence[Boxes], num_classes: int) -> COCO:
    """The true boxes as pycocotools' data set."""
    annotations = [entry for number, boxes in enumerate(truth) for entry in entries(number, boxes)]
    data = COCO()
    data.dataset = {
        "info": {}, "images": [{"id": number} for number in range(len(truth))],
        "categories": [{"id": number} for number in range(1, num_classes + 1)],
        "annotations": [{"id": place, **entry} for place, entry in enumerate(annotations, 1)],
    }  # fmt: skip
    data.createIndex()
    return data


def entries(number: int, boxes: Boxes) -> list[dict[str, Any]]:
    """The boxes of image `number` as COCO writes them."""
    wide = boxes.corners[:, 2:] - boxes.corners[:, :2]
    crowds = np.zeros(len(wide), bool) if boxes.crowds is None else boxes.crowds
    scores = np.zeros(len(wide)) if boxes.scores is None else boxes.scores
    return [
        {"image_id": number, "category_id": int(boxes.classes[row]), "bbox": [*map(float, boxes.corners[row, :2]),
         *map(float, wide[row])], "area": float(wide[row].prod()), "iscrowd": int(crowds[row]),
         "score": float(scores[row])}
        for row in range(len(wide))
    ]  # fmt: skip
