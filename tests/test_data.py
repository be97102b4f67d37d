"""The data stage on the embedded digits: counts, bytes, resuming, reading back. Run: pytest tests/test_data.py"""

import gc
import hashlib
import os
import shutil
import signal
import warnings
from pathlib import Path
from threading import Event

import digits
import forks
import numpy as np
import pytest
import toy as toys
import webdataset
from digits import YAML, make
from sklearn.datasets import load_digits

from stages.core import UserError, scratch
from stages.core.artifact import read_config
from stages.core.params import load
from stages.data.digits import enlarge, split_digits
from stages.data.params import Params
from stages.data.reader import ImageSplit, image_facts, num_images
from stages.data.threads import in_threads


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield make(folder / "images")


def test_digits_have_1500_train_and_297_val_images_in_equal_shares(images):
    splits = image_facts(images)["splits"]
    assert {split: facts["images"] for split, facts in splits.items()} == {"train": 1500, "val": 297}
    totals = {name: count + splits["val"]["per_class"][name] for name, count in splits["train"]["per_class"].items()}
    assert sum(totals.values()) == 1797
    for name, count in splits["val"]["per_class"].items():
        assert abs(count - totals[name] * 297 / 1797) < 1


def test_splits_share_no_image(images):
    train, val = ImageSplit(images, "train"), ImageSplit(images, "val")
    assert len({*train.keys, *val.keys}) == 1797


def test_two_runs_with_any_number_of_workers_give_equal_bytes(images, workdir):
    again = make(workdir / "images", num_workers=2)
    assert hashes(again) == hashes(images)


def test_another_seed_splits_otherwise():
    labels = np.arange(1797) % 10
    first, other = (split_digits(labels, 0.2, seed)["val"] for seed in (0, 1))
    assert len(first) == len(other) == 359 and not np.array_equal(first, other)


def test_plain_webdataset_decodes_the_shards(images):
    paths = [str(images / entry["name"]) for entry in image_facts(images)["splits"]["val"]["shards"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
        gc.collect()
    split = ImageSplit(images, "val")
    assert [sample["__key__"] for sample in samples] == split.keys
    assert [sample["cls"] for sample in samples] == split.labels.tolist()
    assert samples[0]["json"] == {"name": f"digits-{int(split.keys[0])}", "class": int(split.labels[0])}
    assert np.array_equal(np.stack([sample["png"] for sample in samples]), split.read(range(len(split))))


def test_reader_gives_the_scans_in_the_order_asked_for(images):
    split, digits = ImageSplit(images, "train", num_workers=2), load_digits()
    wanted = np.array([1499, 3, 3, 700])
    pixels, number = split.read(wanted), [int(split.keys[i]) for i in wanted]
    assert pixels.shape == (4, 8, 8, 3) and pixels.dtype == np.uint8 and split.labels.dtype == np.int64
    assert np.array_equal(pixels[..., 0], np.round(digits.images[number] * (255 / 16)))
    assert np.array_equal(split.labels[wanted], digits.target[number])
    assert split.read([]).shape == (0, 8, 8, 3) and num_images(images, "train") == len(split) == 1500


def test_jpg_images_of_img_px_are_close_to_the_enlarged_scans(workdir):
    jpg, scans = ImageSplit(make(workdir / "images", format="jpg", img_px=20), "val"), load_digits().images
    assert jpg.img_px == 20 and jpg.read([0]).shape == (1, 20, 20, 3)
    wanted = np.stack([np.asarray(enlarge(scans[int(key)], 20)) for key in jpg.keys[:20]])
    assert 0 < np.abs(jpg.read(range(20)).astype(int) - wanted).mean() < 8


def test_killed_half_way_and_resumed_gives_the_bytes_of_one_run(images, workdir):
    (workdir / "params.yaml").write_text(YAML)
    with forks.forked(digits.prepare_until_killed, str(workdir), 3) as child:
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not Path("images").exists()
    kept = {path: path.stat().st_mtime_ns for path in Path("scratch/images").glob("*/*.json")}
    assert len(kept) == 3
    held = [os.open(path, os.O_RDONLY) for path in Path("scratch/images").glob("*/*.tar")]
    toys.run_line(digits.PREPARE, workdir)
    assert hashes(workdir / "images") == hashes(images)
    published = {path.stat().st_ino for path in Path("images").glob("*.tar")}
    assert {os.fstat(file).st_ino for file in held} <= published
    for file in held:
        os.close(file)
    assert len(list(Path("scratch/images").glob("*/published.json"))) == 1


def test_look_ahead_is_bounded_and_order_is_kept():
    started = []
    results = in_threads(lambda item: started.append(item) or item, range(100), 2)
    first = [next(results) for _ in range(10)]
    assert first == list(range(10)) and len(started) <= 14
    assert list(results) == list(range(10, 100))


def test_threads_work_as_far_ahead_as_asked_while_nothing_is_taken():
    started, all_started = [], Event()

    def work(item):
        started.append(item)
        if len(started) == 21:
            all_started.set()
        return item

    results = in_threads(work, range(100), 2, ahead=20)
    assert next(results) == 0 and next(results) == 1
    assert all_started.wait(60) and len(started) <= 22
    results.close()


@pytest.fixture
def copy(images, workdir):
    return Path(shutil.copytree(images, workdir / "copy"))


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 5000), lambda path: path.unlink()])
def test_truncated_or_missing_shard_is_named_with_the_way_out(copy, damage):
    damage(copy / "train-000002.tar")
    with pytest.raises(UserError, match=r"train-000002\.tar.*dvc checkout` or `dvc repro"):
        ImageSplit(copy, "train")


def test_shard_truncated_or_overwritten_while_in_use_is_named(copy):
    split = ImageSplit(copy, "val")
    path = copy / "val-000000.tar"
    split.read([0])  # compares the shard's hash
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="val-000000.tar: broken shard .* does not decode"):
        split.read([0])
    os.truncate(path, 5000)
    with pytest.raises(UserError, match="val-000000.tar: broken shard .* ends inside a sample"):
        split.read([200])


def test_index_has_no_absolute_path_and_hashes_every_file(images):
    assert str(images.parent) not in (images / "config.json").read_text()
    listed = read_config(images, "images")["files"]
    assert listed == {name: digest for name, digest in hashes(images).items() if name != "config.json"}


def test_unfinished_work_has_another_key_with_other_params_or_files(workdir):
    Path("params.yaml").write_text(YAML)
    params = load("data", Params)
    keys = {
        scratch.key_of(params, [], ""),
        scratch.key_of(params, [], "other files"),
        scratch.key_of(params.model_copy(update={"seed": 1}), [], ""),
    }
    assert len(keys) == 3 and scratch.key_of(params, [], "") in keys
