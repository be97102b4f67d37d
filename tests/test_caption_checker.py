"""What captions of scenes say, what of it images show, and the chance that they show it.

Run: uv run pytest tests/test_caption_checker.py
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.data.scenes.attributes import ATTRIBUTES, PLACES, UNKNOWN, attributes_of
from stages.data.scenes.counter_rng import ImageRng
from stages.data.scenes.objects import captions, draw_objects
from stages.evaluate.caption_checker import CaptionChecker
from stages.evaluate.caption_checker_training import accuracies, read_images, sum_of_losses
from stages.evaluate.score_captions import with_chance
from stages.report import captions as report

SIZES = {name: len(values) for name, values in ATTRIBUTES.items()}


def test_every_caption_of_a_scene_says_what_its_main_object_is():
    objects = draw_objects(ImageRng(3, np.arange(300)), 3, 0.8)
    cells = (objects.center[:, 0] * 3).astype(int).clip(0, 2)
    expected = np.stack([objects.shape[:, 0], objects.color[:, 0], cells[:, 1] * 3 + cells[:, 0]], 1)
    found = [attributes_of(caption) for caption in captions(objects)]
    assert np.array_equal(found, expected) and PLACES[4] == "centre" and len({*PLACES}) == 9


@pytest.mark.parametrize(
    ("caption", "values"),
    [
        ("A Red STAR", ("star", "red", None)),
        ("a star at the top", ("star", None, "top")),
        ("something blue at the middle", (None, "blue", None)),
        ("a red blue star at the top left, with a tiny green disc at the bottom right", ("star", None, "top left")),
        ("红色", (None, None, None)),
        ("", (None, None, None)),
    ],
)
def test_what_a_caption_does_not_name_or_names_twice_is_unknown(caption, values):
    numbers = [own.index(value) if value else UNKNOWN for own, value in zip(ATTRIBUTES.values(), values, strict=True)]
    assert attributes_of(caption) == numbers


def test_accuracies_count_the_named_attributes_alone():
    asked = np.array([[1, 2, 3], [1, 2, -1], [-1, -1, -1], [4, 4, 4]])
    found = np.array([[1, 2, 0], [1, 2, 7], [5, 5, 5], [0, 4, 4]])
    each = accuracies(found, asked)
    assert each == {"shape": 2 / 3, "color": 1.0, "position": 0.5, "all": 1 / 3}
    assert accuracies(found[2:3], asked[2:3]) == {}


def test_chance_is_the_accuracy_over_all_pairs_of_images_and_captions():
    rng = np.random.default_rng(0)
    found, asked = rng.integers(0, 9, (40, 3)), rng.integers(0, 9, (40, 3))
    pairs = [accuracies(np.roll(found, shift, 0), asked) for shift in range(40)]
    for name in ATTRIBUTES:
        mean = np.mean([one[name] for one in pairs])
        assert with_chance(found, asked)[f"chance[{name}]"] == pytest.approx(mean)


def test_the_checker_learns_where_something_is_and_what():
    torch.manual_seed(0)
    network = CaptionChecker(img_px=16, widths=[8, 16], attributes=SIZES).train()
    images, asked = np.full((90, 16, 16, 3), 128, np.uint8), np.zeros((90, 3), np.int64)
    for number in range(90):
        row, column, color = number // 3 % 3, number % 3, number // 9 % 3
        images[number, row * 5 : row * 5 + 5, column * 5 : column * 5 + 5, color] = 255
        asked[number] = UNKNOWN, color, row * 3 + column
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    for _ in range(60):
        loss = sum_of_losses(network(pixels), torch.from_numpy(asked))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = read_images(network.eval(), 90, lambda part: images[part.start : part.stop], 32, torch.device("cpu"))
    assert accuracies(found, asked) == {"color": 1.0, "position": 1.0, "all": 1.0}


def test_a_generator_keeps_its_name_in_the_report_whatever_is_in_it():
    metrics = {"caption_accuracy[shape]": 0.5}
    found = {"ar_val": metrics, "val": metrics, "protocol": [{"of": name} for name in ("ar_val", "val")]}
    [section] = report.captions(SimpleNamespace(metrics=lambda stage: {"kmeans-onestep-scenes": found}))
    assert [row[1] for table in section.tables for row in table.rows] == ["ar_val", "real val images"]
