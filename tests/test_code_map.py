"""The codes' places and patches for the page's map of the codebook. Run: uv run pytest tests/test_code_map.py"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.params import load
from stages.studies.code_map import USES, save_map
from stages.studies.code_survey import Survey
from stages.studies.params import CodeAnalysis
from stages.studies.tsne import Layout

ROOT = Path(__file__).parents[1]
CODES = np.array([[2, 2, 2, 0], [2, 0, 1, 1]])  # of two images in four patches each


class Split:
    """Two images of 8 px, gray 10 and 20."""

    classes = ["round", "square"]

    def read(self, index):
        return np.full((len(index), 8, 8, 3), 10, np.uint8) * (1 + np.asarray(index, np.uint8))[:, None, None, None]


def save(folder, codes: list[int], plane: list[list[float]]):
    survey = Survey(np.arange(2), CODES, np.zeros((2, 3)), np.array([0, 1]), np.zeros((2, 4, 3)))
    table = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    layout = Layout(np.zeros((0, 2)), np.array(codes, int), np.array(plane, float).reshape(-1, 2))
    save_map(folder, Split(), survey, table, 2, layout, load("code_analysis", CodeAnalysis, ROOT / "params.yaml"))
    return json.loads((folder / "codes.json").read_text())


def test_a_row_of_patches_and_the_facts_of_each_code(tmp_path):
    facts = save(tmp_path, [2, 0, 1], [[0.0, 4.0], [2.0, 0.0], [1.0, 1.0]])
    assert [(one["code"], one["x"], one["y"]) for one in facts["codes"]] == [(2, 0, 1), (0, 1, 0), (1, 0.5, 0.25)]
    assert [one["share"] for one in facts["codes"]] == [0.5, 0.25, 0.25]
    assert [(one["class"], one["class_share"]) for one in facts["codes"]] == [
        ("round", 0.75), ("round", 0.5), ("square", 1.0)
    ]  # fmt: skip
    assert (facts["tile_px"], facts["columns"]) == (12, 1 + USES)
    picture = np.asarray(Image.open(tmp_path / "patches.png"))
    assert picture.shape == (3 * 12, (1 + USES) * 12, 3)
    tiles = picture.reshape(3, 12, 1 + USES, 12, 3)[:, 0, :, 0, 0]
    assert tiles.tolist() == [[2, 10, 10, 10, 20, 0], [0, 10, 20, 0, 0, 0], [1, 20, 20, 0, 0, 0]]


def test_without_a_plane_there_are_no_codes(tmp_path):
    assert save(tmp_path, [], [])["codes"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["codes.json"]


@pytest.mark.parametrize(("plane", "places"), [([[1.0, 1.0], [1.0, 1.0]], [0, 0]), ([[1.0, 5.0]], [0])])
def test_codes_in_one_place_stay_within_the_map(tmp_path, plane, places):
    assert [one["x"] for one in save(tmp_path, [*range(len(plane))], plane)["codes"]] == places
