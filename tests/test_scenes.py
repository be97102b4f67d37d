"""Rendered scenes: what is said of an image is exactly what is in it. Run: pytest tests/test_scenes.py (8 s)"""

import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from stages.core import UserError
from stages.core.params import Machine, load
from stages.data.params import VAL_START, Params
from stages.data.reader import ImageSplit, image_facts
from stages.data.scenes.background import add_specks, take_photo, texture
from stages.data.scenes.counter_rng import ImageRng
from stages.data.scenes.objects import CLASSES, COLORS, FILLS, captions, draw_objects, main_shapes
from stages.data.scenes.scenes import boxes, distances, render
from stages.data.scenes.shapes import SHAPES
from stages.data.writer import write_images

YAML = """
data: {source: scenes, folder: data/code/no_folder, scenes: {count: 60, max_objects: 3, patterned: 0.8, nuisance: 0.5},
       val_folder: data/code/no_folder, captions: data/code/no_folder,
       webdataset: {shards: [], val_shards: [], class_field: cls, caption_field: txt},
       crop: center, background: "#ffffff", png_level: 6,
       img_px: 16, val_fraction: 0.25, shard_images: 20, format: png, seed: 0}
machine: {device: cpu, num_workers: 0, infer_batch_size: 8, micro_batch_size: 0, shard_above: 1.0e+9,
  recompute_activations: false, compile: "off", checkpoint_share: 0.02, tracker: none}
"""
LOBES = 0.5 * (0.5**2 * math.pi)  # the heart's two half discs, each of radius 0.5, above its unit square
MOON = 0.96**2 * math.pi  # less the lens that the other circle cuts out
AREAS = {
    "disc": math.pi * 0.86**2, "ring": math.pi * (0.92**2 - 0.44**2), "square": 1.4**2, "bar": 1.9 * 0.6,
    "triangle": 0.75 * 3**0.5, "cross": 2 * 1.86 * 0.56 - 0.56**2, "heart": 1 + 2 * LOBES,
    "star": 10 * 0.5 * 0.45 * math.sin(math.pi / 5), "arrow": 0.85 * 0.97 + 0.52 * 0.9,
}  # fmt: skip


def scenes(numbers, **changes):
    return render(0, numbers, **{"img_px": 32, "max_objects": 3, "patterned": 0.8, "nuisance": 0.5, **changes})


def lens(first: float, second: float, apart: float) -> float:
    """Area that two circles share (Weisstein, "Circle-circle intersection")."""
    a = first**2 * math.acos((apart**2 + first**2 - second**2) / (2 * apart * first))
    b = second**2 * math.acos((apart**2 + second**2 - first**2) / (2 * apart * second))
    sides = (-apart + first + second) * (apart + first - second) * (apart - first + second) * (apart + first + second)
    return a + b - math.sqrt(sides) / 2


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_its_area_lies_in_the_unit_circle_and_distances_are_true_near_its_edge(name):
    line = ((np.arange(400) + 0.5) / 400 * 2.2 - 1.1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    distance = SHAPES[name](x[None], y[None])[0]
    expected = {**AREAS, "moon": MOON - lens(0.96, 0.78, 0.5)}[name]
    assert distance.dtype == np.float32
    assert (distance <= 0).mean() * 2.2**2 == pytest.approx(expected, rel=0.01)
    assert np.hypot(x, y)[distance <= 0].max() <= 1
    slope = np.hypot(*np.gradient(distance, line[1] - line[0]))[abs(distance) < 0.02]
    assert np.quantile(slope, [0.1, 0.9]) == pytest.approx(1, abs=0.02)


def test_an_image_is_the_same_in_any_batch_and_another_for_another_seed():
    numbers = [*range(30), VAL_START, VAL_START + 7]
    whole = scenes(numbers)
    for start, stop in ((0, 1), (3, 20), (29, 32)):
        part = scenes(numbers[start:stop])
        assert np.array_equal(part.images, whole.images[start:stop])
        assert np.array_equal(part.owner, whole.owner[start:stop]) and boxes(part) == boxes(whole)[start:stop]
        assert captions(part.objects) == captions(whole.objects)[start:stop]
    assert len({image.tobytes() for image in whole.images}) == len(numbers)
    assert not np.array_equal(
        render(1, [0], img_px=32, max_objects=3, patterned=0.8, nuisance=0.5).images, whole.images[:1]
    )


def test_every_run_of_ten_numbers_has_every_class_in_changing_order():
    runs = main_shapes(ImageRng(0, np.arange(1000))).reshape(100, 10)
    assert (np.sort(runs, 1) == np.arange(10)).all() and len({tuple(run) for run in runs.tolist()}) > 90


def test_what_else_varies_is_even_and_independent_of_the_class():
    objects = draw_objects(ImageRng(0, np.arange(4000)), 3, patterned=0.8)
    assert np.bincount(objects.present.sum(1) - 1) == pytest.approx(4000 / 3, rel=0.1)
    for choice, names in ((objects.color, COLORS), (objects.fill, FILLS)):
        assert np.bincount(choice[:, 0]) == pytest.approx(4000 / len(names), rel=0.2)
        means = [choice[objects.shape[:, 0] == shape, 0].mean() for shape in range(10)]
        assert means == pytest.approx([(len(names) - 1) / 2] * 10, rel=0.2)


def test_boxes_are_the_edges_of_what_is_seen_of_each_object():
    batch = scenes(range(60))
    for found, owner, present in zip(boxes(batch), batch.owner, batch.objects.present, strict=True):
        assert len(found) == present.sum() and {*np.unique(owner)} == {-1, *present.nonzero()[0]}
        for (x0, y0, x1, y1), k in zip(found, present.nonzero()[0], strict=True):
            rows, columns = np.nonzero(owner == k)
            assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_lone_object_covers_its_shape_and_a_mask_is_its_pixel_centers():
    batch = scenes(range(20), img_px=32, max_objects=1)
    fine = scenes(range(20), img_px=256, max_objects=1, nuisance=0.0).owner == 0  # 64 samples a pixel
    share = fine.reshape(20, 32, 8, 32, 8).mean((2, 4))
    mask = batch.owner == 0
    assert mask[share == 1].all() and not mask[share == 0].any()
    assert mask.sum((1, 2)) == pytest.approx(share.sum((1, 2)), rel=0.1)
    for k, name in enumerate(CLASSES):
        for row in np.flatnonzero(batch.objects.shape[:, 0] == k):
            expected = {**AREAS, "moon": MOON - lens(0.96, 0.78, 0.5)}[name] * batch.objects.radius[row, 0] ** 2
            assert fine[row].mean() == pytest.approx(expected, rel=0.03)


def test_the_main_object_is_the_largest_and_nothing_hides_much():
    batch = scenes(range(300))
    whole = (distances(batch.objects, 32)[2] <= 0).sum((2, 3))
    seen = np.stack([(batch.owner == k).sum((1, 2)) for k in range(3)], 1)
    present = batch.objects.present
    assert (seen[:, 0] >= 0.7 * whole[:, 0]).all() and (seen >= 0.5 * whole)[present].all()
    assert (whole[:, :1] > whole[:, 1:])[present[:, 1:]].all()
    assert present.sum(1).mean() > 1.8, "few are left out"


def test_objects_are_where_their_mask_is_in_the_colors_of_their_words():
    batch = scenes(range(200), nuisance=0.0, max_objects=1)
    for image, owner, rgb, fill in zip(batch.images, batch.owner, batch.objects.rgb, batch.objects.fill, strict=True):
        inner = ~binary_dilation(owner != 0, iterations=2)
        if FILLS[fill[0]] == "solid" and inner.any():
            assert image[inner] / 255 == pytest.approx(np.tile(rgb[0], (inner.sum(), 1)), abs=0.01)


def test_without_nuisance_the_background_is_one_color_and_with_it_never():
    flat, photo = scenes(range(40), nuisance=0.0), scenes(range(40), nuisance=1.0)
    away = (distances(flat.objects, 32)[2] > 1 / 32) | ~flat.objects.present[:, :, None, None]
    for image, noisy, background in zip(flat.images, photo.images, away.all(1), strict=True):
        assert len(np.unique(image[background], axis=0)) == 1 < len(np.unique(noisy[background], axis=0)) // 20
        assert len({*image[background][0]}) == 1, "a gray"
    assert np.array_equal(flat.owner, photo.owner), "the objects are the same"


def test_textures_have_spectra_of_photographs():
    across, down = np.fft.fftfreq(64)[None], np.fft.fftfreq(64)[:, None]
    frequency = np.hypot(across, down)
    inner = (across != 0) & (frequency < 0.4)
    amplitudes = abs(np.fft.fft2(texture(ImageRng(0, np.arange(60)), "texture", 1, 64)[:, 0]))
    falls = [np.polyfit(np.log(frequency[inner]), np.log(one[inner]), 1)[0] for one in amplitudes]
    assert -1.61 < min(falls) < -1.4 and -0.9 < max(falls) < -0.69, "1/f^a, a from 0.7 to 1.6"


def test_light_is_uneven_and_the_camera_noisy_in_every_image_to_its_own_degree():
    images = take_photo(ImageRng(0, np.arange(60)), np.full((60, 3, 32, 32), 0.5, np.float32), 1.0) / 255
    noise = np.diff(images, axis=2).std((1, 2, 3)) / 2**0.5
    assert 0.004 < noise.min() < 0.02 and 0.055 < noise.max() < 0.075
    bright = images.mean(3)
    edges = np.stack([bright[:, :, -4:].mean((1, 2)) - bright[:, :, :4].mean((1, 2)),
                      bright[:, -4:].mean((1, 2)) - bright[:, :4].mean((1, 2))])  # fmt: skip
    assert np.hypot(*edges).min() < 0.05 and 0.2 < np.hypot(*edges).max() < 0.45


def test_clutter_is_small_and_its_amount_follows_nuisance():
    def littered(nuisance: float) -> float:
        plane = add_specks(ImageRng(0, np.arange(200)), np.full((200, 3, 32, 32), -1, np.float32), nuisance)
        return float((plane != -1).any(1).mean())

    assert 0.01 < littered(1.0) < 0.1 and littered(0.25) == pytest.approx(littered(1.0) / 4, rel=0.25)


@pytest.mark.parametrize("patterned", [0.0, 0.25, 1.0])
def test_so_many_objects_have_a_pattern(patterned):
    fills = draw_objects(ImageRng(0, np.arange(4000)), 1, patterned).fill
    assert (fills != FILLS.index("solid")).mean() == pytest.approx(patterned, abs=0.03)


def test_captions_name_every_object_with_size_fill_color_shape_and_place():
    batch = scenes(range(100))
    for words, label, present in zip(captions(batch.objects), batch.objects.shape, batch.objects.present, strict=True):
        main, *others = words.split(" with ")
        size, fill, color, shape = main.split()[1:5]
        assert size in ("small", "medium", "large") and fill in FILLS and color in COLORS
        assert shape == CLASSES[label[0]] and " at the " in main
        assert words.count(" at the ") == present.sum() and len(others) == (present.sum() > 1)


def make(out: str, workers: int = 0, **changes) -> Path:
    Path("params.yaml").write_text(YAML)
    params, machine = load("data", Params).model_copy(update=changes), load("machine", Machine)
    write_images(Path(out), params, machine.model_copy(update={"num_workers": workers}))
    return Path(out)


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {info.name: tar.extractfile(info).read() for info in tar}
    return found


def test_the_images_artifact_holds_scenes_with_all_that_is_known_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make("images")
    facts, found, split = image_facts(folder), members(folder), ImageSplit(folder, "val")
    assert facts["classes"] == CLASSES and facts["scenes"] == {
        "count": 60,
        "max_objects": 3,
        "patterned": 0.8,
        "nuisance": 0.5,
    }
    assert [facts["splits"][name]["images"] for name in ("train", "val")] == [45, 15] and not facts["refused"]
    assert split.keys[0] == f"{VAL_START}" and {*split.keys}.isdisjoint(ImageSplit(folder, "train").keys)
    batch = scenes([VAL_START + i for i in range(15)], img_px=16)
    assert np.array_equal(split.read(range(15)), batch.images)
    assert np.array_equal(split.labels, batch.objects.shape[:, 0])
    for i, (words, corners) in enumerate(zip(captions(batch.objects), boxes(batch), strict=True)):
        key = split.keys[i]
        assert found[f"{key}.txt"].decode() == words and json.loads(found[f"{key}.boxes.json"]) == corners
        mask = np.asarray(Image.open(io.BytesIO(found[f"{key}.mask.png"])))
        assert all(np.array_equal(mask == 255 - k, batch.owner[i] == k) for k in range(3))
        assert np.array_equal(mask == 0, batch.owner[i] < 0)


def test_shards_and_threads_change_no_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.data.scenes.scenes.BATCH_PIXELS", 7 * 16**2)  # seven scenes at once
    small = members(make("small", shard_images=11, workers=2))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert small == members(make("large", shard_images=1000))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("nuisance: 0.5", "nuisance: 1.5", "data.scenes.nuisance = 1.5: input should be less than or equal to 1"),
        ("max_objects: 3", "max_objects: 0", "data.scenes.max_objects = 0"),
        ("count: 60", "count: 60, colors: 3", "data.scenes.colors = 3: unknown key; data.scenes has count, max_obj"),
        ("folder: data/code/no_folder", "folder: photos", "with source: scenes, expected a folder"),
        ("val_fraction: 0.25", "val_fraction: 0.1", "data.val_fraction = 0.1: 6 of 60 scenes in val; both splits need"),
    ],
)
def test_an_impossible_value_is_named(old, new, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(UserError, match=said):
        write_images(Path("images"), load("data", Params), load("machine", Machine))
