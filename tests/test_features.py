"""Features: what the artifact holds, read in any order; broken shards. Run: pytest tests/test_features.py"""

import gc
import shutil
import warnings

import numpy as np
import pytest
import webdataset
from torch.nn import Identity
from toy_pipeline import MACHINE, write_encoder, write_images

from stages.core import UserError
from stages.core.images import to_float
from stages.data.reader import ImageSplit
from stages.encoder.encoder import load_encoder
from stages.features.params import Params
from stages.features.reader import FeatureSplit
from stages.features.writer import write_features


def test_features_are_one_row_per_patch_in_half_precision(toy):
    split, images = FeatureSplit(toy / "data/features", "val"), ImageSplit(toy / "data/images", "val")
    assert split.keys() == images.keys and len(split) == len(images)
    encoder = load_encoder(toy / "data/encoder")
    wanted = encoder(to_float(images.read(range(len(images)))), blocks=[1], final_norm=True)[0]
    found = np.stack(list(split))
    assert found.dtype == np.float16 and found.shape == (len(images), 16, 32)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-3)


def test_a_final_norm_that_the_encoder_lacks_is_refused(tmp_path, monkeypatch):
    write_images(tmp_path / "images")
    write_encoder(tmp_path / "encoder")
    monkeypatch.setattr("stages.encoder.encoder.last_norm", lambda vit: Identity())
    params = Params(block=-1, final_norm=True, max_train_images=0, shard_images=10, seed=0)
    with pytest.raises(UserError, match="features.final_norm = True.*expected false"):
        write_features(tmp_path / "images", tmp_path / "encoder", tmp_path / "features", params, MACHINE)


def test_features_are_read_in_any_order(toy):
    split = FeatureSplit(toy / "data/features", "train")
    stored, wanted = list(split), [20, 3, 3, len(split) - 1]  # shards of ten
    assert np.array_equal(split.read(wanted), np.stack([stored[i] for i in wanted]))
    assert split.read(wanted).dtype == np.float16


def test_a_truncated_or_foreign_shard_is_named(toy, tmp_path):
    shutil.copytree(toy / "data/features", tmp_path / "features")
    split, path = FeatureSplit(tmp_path / "features", "train"), tmp_path / "features/train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    with pytest.raises(UserError, match="train-000000.tar: broken shard .*dvc"):
        split.read([0])
    path.write_bytes(content[:3000])
    with pytest.raises(UserError, match="train-000000.tar: broken shard .*dvc"):
        FeatureSplit(tmp_path / "features", "train")


def test_plain_webdataset_opens_the_shards(toy):
    paths = [str(path) for path in sorted((toy / "data/features").glob("val-*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode())
        gc.collect()
    split = FeatureSplit(toy / "data/features", "val")
    assert [sample["__key__"] for sample in samples] == split.keys()
    assert np.array_equal(np.stack([sample["npy"] for sample in samples]), np.stack(list(split)))
