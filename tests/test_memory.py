"""Peak memory of the stages does not grow with the images, except by some bytes of index each; that of the evaluation
grows by features alone.

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
def test_evaluation_grows_by_features_and_thumbnails_alone():
    """Two sets and scaled thumbnails of both: measured 4.1 times one. With 1,000 distances to each image it was 9."""
    images, dim = (18_000, 36_000), 128
    few, many = (evaluation.measure(count, 500, dim) for count in images)
    further = 18_000 * 4 * (dim + 3 * evaluation.PIXEL_PX**2)
    assert all(many[part] - few[part] < 4.6 * further for part in many)
