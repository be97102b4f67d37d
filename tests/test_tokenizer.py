"""A tokenizer: images to codes, usage of the codes, a codebook artifact that stands alone, what it depends on.

Run: uv run pytest tests/test_tokenizer.py
"""

import shutil

import numpy as np
import pytest
import torch
import toy as toys
from hypothesis import given
from hypothesis import strategies as st

from stages.codebook.params import KINDS
from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError, artifact, code
from stages.core.images import to_float, to_uint8
from stages.core.metrics import code_dtype, count_codes, usage
from stages.data.reader import ImageSplit
from stages.tokens.reader import load_tokens


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any))
def test_usage_stays_within_its_bounds(counts):
    found = usage(np.array(counts))
    assert 0 < found["live_fraction"] <= 1
    assert 0 <= found["entropy_nats"] <= np.log(len(counts)) + 1e-9


def test_usage_of_uniform_and_single_codes():
    assert usage(np.full(8192, 3))["perplexity"] == pytest.approx(8192)
    assert usage(np.full(8192, 3))["entropy_nats"] == pytest.approx(9.0109, abs=1e-4)
    assert usage(np.array([0, 7, 0]))["perplexity"] == 1


def test_tokens_hold_the_tokenizers_codes_and_moved_views(toy):
    tokens, tokenizer = load_tokens(toy / "data/tokens/kmeans", "train"), load_tokenizer(toy / "data/codebook/kmeans")
    images = ImageSplit(toy / "data/images", "train")
    assert tokens.codes.shape == (2, len(images), 16) and tokens.codes.dtype == np.uint16
    assert np.array_equal(tokens.codes[0], tokenizer.encode(images.read(range(len(images)))))
    assert np.array_equal(tokens.labels, images.labels)
    assert 0.005 < (tokens.codes[1] != tokens.codes[0]).mean() < 0.9, "moved a little, not replaced"


@pytest.mark.parametrize(("num_codes", "dtype"), [(2, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_codes_take_two_bytes_up_to_65536(num_codes, dtype):
    assert code_dtype(num_codes) == dtype
    assert np.array([num_codes - 1]).astype(dtype)[0] == num_codes - 1


@pytest.mark.parametrize(("code", "said"), [(-1, "-1"), (8, "8"), (1.5, "1.5"), (True, "True"), ("3", "3")])
def test_a_vector_is_asked_for_by_an_integer_in_range_alone(code, said, toy):
    tokenizer = load_tokenizer(toy / "data/codebook/kmeans")
    with pytest.raises(UserError, match=rf"codes: {said} \(.*\): expected integers from 0 to 7"):
        tokenizer.vectors([code])
    with pytest.raises(UserError, match=f"codes: {said} "):
        count_codes(np.array([[code]]), 8)
    assert torch.equal(tokenizer.vectors(3), tokenizer.codebook.vectors[3])


@pytest.fixture
def moved(toy, tmp_path, monkeypatch):
    """A codebook of the toy, moved away from everything else; the working directory is another one."""
    shutil.copytree(toy / "data/codebook/kmeans", tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "moved"


def test_a_moved_codebook_encodes_without_any_other_artifact(toy, moved):
    images = ImageSplit(toy / "data/images", "val").read(range(5))
    tokenizer = load_tokenizer(moved)
    assert np.array_equal(tokenizer.encode(images), load_tokenizer(toy / "data/codebook/kmeans").encode(images))
    assert (tokenizer.device, load_tokenizer(moved, "meta").device) == (torch.device("cpu"), torch.device("meta"))
    config = artifact.read_config(moved, "codebook")
    assert (config["kind"], config["name"], config["codebooks"]) == ("kmeans", "kmeans", 1)
    assert "data/" not in (moved / "config.json").read_text()
    assert config["inputs"]["encoder"] == artifact.digest(moved / "encoder")


@pytest.mark.parametrize("name", ["encoder/config.json", "encoder/model.safetensors", "codes.safetensors"])
def test_a_codebook_refuses_another_file_in_its_place(name, moved):
    (moved / name).write_bytes((moved / name).read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{name}: its sha256 differs"):
        load_tokenizer(moved)


def test_an_unknown_kind_is_refused_with_the_known_ones(moved):
    (moved / "config.json").write_bytes(artifact.with_checksum({**artifact.read(moved), "kind": "vqvae"}))
    with pytest.raises(UserError, match="kind 'vqvae': expected one of kmeans, cluster, vqkd, vqgan, fsq"):
        load_tokenizer(moved)


@pytest.mark.parametrize("name", KINDS)
def test_a_tokenizer_depends_on_its_own_kind_and_on_features_only_if_it_reads_them(name, toy, tmp_path):
    for folder in ("code", "features", "images", "encoder"):
        shutil.copytree(toy / "data" / folder, tmp_path / "data" / folder)
    toys.write_params(tmp_path)
    toys.run_line(toys.COMMANDS["tokenizer_inputs"].replace("kmeans", name), tmp_path)
    found = tmp_path / "data/inputs" / name
    modules = {kind: f"{KINDS[kind].fit.replace('.', '/')}.py" for kind in KINDS}
    fit, load = (code.read_lines(found / part) for part in ("fit", "load"))
    assert [kind for kind, file in modules.items() if file in fit] == [name]
    assert load.keys() <= fit.keys() and modules[name] not in load
    wanted = artifact.digest(tmp_path / "data/features") if name in ("kmeans", "cluster", "vqkd") else ""
    assert (found / "features").read_text() == wanted


def test_other_features_than_those_named_are_refused(toy, tmp_path):
    shutil.copytree(toy / "data", tmp_path / "data")
    toys.write_params(tmp_path)
    (tmp_path / "data/inputs/kmeans/features").write_text("0" * 64)
    with pytest.raises(UserError, match="Run `dvc repro tokenizer_inputs@kmeans`"):
        toys.run("codebook", tmp_path)


def test_pixels_survive_the_round_trip():
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(to_float(images)), images)
    with pytest.raises(UserError, match=r"uint8 \[B, H, W, 3\]"):
        to_float(images.astype(np.float32))
