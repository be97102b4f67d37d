"""Peak memory of the stages does not grow with the images, but for some bytes of index each; of the evaluation by its
features alone.

Run: uv run pytest -m slow tests/test_memory.py
"""

import pytest

from benchmarks import evaluation, memory

INDEX_BYTES = 2_000  # an image: paths, keys and labels while a folder is read; the other stages take less
FEW, MANY = 20, 320  # times the toy's train images


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*memory.COMMANDS, "lloyd", "minibatch"])
def test_a_stage_takes_as_much_memory_for_sixteen_times_the_images(stage, toy, monkeypatch):
    monkeypatch.setattr(memory, "PARAMS", toy / "params.yaml")
    few, many = memory.measure(stage, [FEW, MANY], 4, toy / "data")
    assert many < 1.1 * few


@pytest.mark.slow
def test_a_folder_of_many_small_files_in_many_classes_takes_some_bytes_each(toy, monkeypatch):
    monkeypatch.setattr(memory, "PARAMS", toy / "params.yaml")
    few, many = memory.measure("data", [FEW, MANY], 400, toy / "data")
    further = (MANY - FEW) * memory.train_images(toy / "data")
    assert (many - few) / further < INDEX_BYTES


@pytest.mark.slow
def test_evaluation_grows_by_the_features_of_the_images_alone():
    few, many = (evaluation.measure(images, 500, 512) for images in (2_000, 8_000))
    each = 4 * (512 + 3 * evaluation.PIXEL_PX**2)
    distances = 6_000 * (8 * 1_000 + 4 * 512)
    assert many["build"] - few["build"] < 1.1 * (6_000 * each + distances)
    assert many["score"] - few["score"] < 1.1 * (6_000 * 2 * each + distances)
