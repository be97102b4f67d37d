"""Boxes with a class: torchvision's Faster R-CNN on a simple feature pyramid (ViTDet); COCO's average precision."""

from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from stages.core import UserError
from stages.core.images import to_float
from stages.core.params import Machine
from stages.core.train import Batch
from stages.data.dvc_folder import NO_FOLDER
from stages.data.reader import image_facts
from stages.recognition.average_precision import Boxes, average_precision
from stages.recognition.folders import Coco
from stages.recognition.params import Data, Detection, Maps
from stages.recognition.pyramid import Pyramid
from stages.recognition.scenes import Scenes
from stages.recognition.trainer import SHOWN, TaskTrainer

POOLED = 7  # side of what is pooled from a proposed box
SURE = 0.5  # score above which a box is drawn


class Detector(nn.Module):
    """Faster R-CNN's two stages on a pyramid of maps, for square images of `img_px` that come as they are.

    Boxes of the size of a level's anchors are pooled from that level.
    """

    def __init__(self, maps: Maps, params: Detection, classes: int, img_px: int):
        super().__init__()
        sides, names = params.anchors_px, [str(number) for number in range(len(params.anchors_px))]
        self.img_px, self.pyramid = img_px, Pyramid(maps.dims, params.width, len(sides))
        level = round(log2(img_px / maps.grid))  # of the grid itself, as torchvision counts
        pool = MultiScaleRoIAlign(names, POOLED, 2, canonical_scale=sides[-2], canonical_level=level)
        anchors = AnchorGenerator(tuple((side,) for side in sides), ((0.5, 1.0, 2.0),) * len(sides))
        kept = dict.fromkeys((f"rpn_{when}_nms_top_n_{mode}" for when in ("pre", "post") for mode in ("train", "test")),
                             params.proposals)  # fmt: skip
        parts = FasterRCNN(
            self.pyramid, rpn_anchor_generator=anchors, box_roi_pool=pool,
            box_head=TwoMLPHead(params.width * POOLED**2, 4 * params.width),
            box_predictor=FastRCNNPredictor(4 * params.width, classes + 1), **kept,
            rpn_batch_size_per_image=params.samples, box_batch_size_per_image=params.samples,
        )  # fmt: skip
        self.propose, self.classify = parts.rpn, parts.roi_heads

    def forward(self, maps: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """The losses of both stages in training, else {boxes, labels, scores} per image. All in fp32."""
        with torch.autocast(maps[0].device.type, enabled=False):
            levels = {str(n): level for n, level in enumerate(self.pyramid([one.float() for one in maps]))}
            sizes = [(self.img_px, self.img_px)] * len(maps[0])
            images = ImageList(maps[0].new_empty(len(sizes), 0, *sizes[0]), sizes)
            proposals, losses = self.propose(images, levels, targets)
            found, more = self.classify(levels, proposals, sizes, targets)
        return {**losses, **more} if self.training else found


class Trainer(TaskTrainer):
    """The sum of the four losses of Faster R-CNN."""

    params: Detection

    def __init__(self, params: Detection, images: Path, data: Data, machine: Machine, device: torch.device):
        super().__init__(params, splits_of(images, data, machine), machine, device)

    def head(self, maps: Maps) -> nn.Module:
        return build_head(self.params, maps, len(self.classes), self.img_px)

    def batch_at(self, step: int) -> Batch:
        """Images, boxes float [B, M, 4] and classes int64 [B, M] from 1; rows that hold no box have class 0."""
        numbers, images = self.images_at(step)
        boxes = [without_crowds(one) for one in self.splits["train"].boxes(numbers)]
        most = max(1, *(len(one.classes) for one in boxes))
        corners, classes = torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most, dtype=torch.int64)
        for row, one in enumerate(boxes):
            corners[row, : len(one.classes)] = torch.from_numpy(one.corners)
            classes[row, : len(one.classes)] = torch.from_numpy(one.classes)
        if self.params.hflip:
            flip = torch.rand(len(boxes), generator=self.draws(step)) < 0.5
            images[flip] = images[flip].flip(2)
            corners[flip] = flipped(corners[flip], self.img_px)
        return images, corners, classes

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, corners, classes = batch
        targets = [{"boxes": boxes[kinds > 0], "labels": kinds[kinds > 0]}
                   for boxes, kinds in zip(corners, classes, strict=True)]  # fmt: skip
        losses = self.run(model, to_float(images, self.device), targets)
        return sum(losses.values(), torch.zeros((), device=self.device)), {
            name: loss.detach() for name, loss in losses.items()
        }

    def scores(self, model: nn.Module) -> dict[str, float]:
        truth = [one for part in self.parts("val") for one in self.splits["val"].boxes(part)]
        found = [one for part in self.parts("val") for one in self.boxes(model, part)]
        return average_precision(truth, found, len(self.classes))

    def boxes(self, model: nn.Module, part: np.ndarray) -> list[Boxes]:
        """What is found in val images."""
        arrays = [{key: value.cpu().numpy() for key, value in one.items()} for one in self.found(model, part)]
        return [Boxes(one["boxes"].astype(float), one["labels"], one["scores"]) for one in arrays]

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "head": f"Faster R-CNN on a simple pyramid of {self.params.width} channels",
                "proposals": self.params.proposals, "ap": "COCO, IoU .5 to .95, all sizes, 100 boxes"}  # fmt: skip

    def picture(self, model: nn.Module) -> tuple[np.ndarray, int]:
        """The first val images with true boxes in white and found ones in red."""
        part = self.numbers["val"][:SHOWN]
        images, truth = self.splits["val"].read(part), self.splits["val"].boxes(part)
        found = [one for few in np.array_split(part, -(-len(part) // 8)) for one in self.boxes(model, few)]
        return np.stack([drawn(*one) for one in zip(images, truth, found, strict=True)]), 8


def build_head(params: Detection, maps: Maps, classes: int, img_px: int) -> nn.Module:
    """The head of a task of so many classes."""
    return Detector(maps, params, classes, img_px)


def splits_of(images: Path, data: Data, machine: Machine) -> dict[str, Any]:
    """Both splits: of the folder that is named, else the scenes."""
    if data.detection == NO_FOLDER:
        return {split: Scenes(images, split, machine.num_workers) for split in ("train", "val")}
    img_px = image_facts(images)["img_px"]
    splits = {split: Coco(Path(data.detection), split, img_px, data.crop) for split in ("train", "val")}
    if splits["train"].numbers != splits["val"].numbers or splits["train"].classes != splits["val"].classes:
        files = " and ".join(str(split.file) for split in splits.values())
        raise UserError(f"{files}: expected the same categories, with the same ids, in both")
    return splits


def without_crowds(boxes: Boxes) -> Boxes:
    """The boxes that train."""
    kept = np.ones(len(boxes.classes), bool) if boxes.crowds is None else ~boxes.crowds
    return Boxes(boxes.corners[kept], boxes.classes[kept])


def flipped(corners: Tensor, img_px: int) -> Tensor:
    """Boxes [..., 4] of the mirrored image."""
    x0, y0, x1, y1 = corners.unbind(-1)
    return torch.stack([img_px - x1, y0, img_px - x0, y1], -1)


def drawn(image: np.ndarray, truth: Boxes, found: Boxes, scale: int = 4) -> np.ndarray:
    """uint8 [scale * H, scale * W, 3]: an enlarged image with its boxes."""
    canvas = Image.fromarray(image.repeat(scale, 0).repeat(scale, 1))
    draw, sure = ImageDraw.Draw(canvas), np.asarray(found.scores) > SURE
    for corners, color in ((truth.corners, "white"), (found.corners[sure], "red")):
        for box in corners * scale:
            draw.rectangle([*map(float, box)], outline=color)
    return np.asarray(canvas)
