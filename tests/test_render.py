"""Render decoders on the toy: artifact, training data, metrics, resuming, refusals.

Run: uv run pytest tests/test_render.py
"""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy as toys
from PIL import Image

from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError
from stages.core.checkpoint import Checkpoint
from stages.core.hardware import pick_device
from stages.core.images import augmented
from stages.core.params import Machine, load
from stages.data.reader import ImageSplit
from stages.decoder.decoder import load_decoder
from stages.decoder.params import load_params
from stages.decoder.render_training import CodePairs, check_steps, evaluate

CHOICE = {"tokenizers": ["kmeans", "vqgan"], "codebook": {"vqgan": {"gan": {"weight": 0.0}}}}
DECODERS = ("render_ar", "render_masked")


def line(command: str, decoder: str) -> str:
    return toys.COMMANDS[command].replace("onestep", decoder)


@pytest.fixture(scope="module")
def pixel_toy(toy, tmp_path_factory) -> Path:
    """The toy with a vqgan and the pixel_tokenizer artifacts of both decoders. Read only."""
    root = tmp_path_factory.mktemp("render") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root, CHOICE)
    toys.run_line(toys.COMMANDS["codebook"].replace("kmeans", "vqgan"), root)
    for decoder in DECODERS:
        toys.run_line(line("pixel_tokenizer", decoder), root)
    return root


@pytest.fixture(scope="module")
def trained(pixel_toy, tmp_path_factory) -> Path:
    """Both decoders, trained; the artifacts they were trained from are gone."""
    root = tmp_path_factory.mktemp("trained") / "toy"
    shutil.copytree(pixel_toy, root)
    for decoder in DECODERS:
        toys.run_line(line("decoder", decoder), root)
    for name in ("pixel_tokenizer", "codebook/vqgan", "encoder"):
        shutil.rmtree(root / "data" / name)
    return root


@pytest.mark.parametrize("name", DECODERS)
def test_a_moved_artifact_decodes_without_any_other(name, trained, pixel_toy, tmp_path):
    decoder = load_decoder(shutil.copytree(trained / f"data/decoder/kmeans-{name}", tmp_path / "moved"))
    codes = np.load(trained / "data/tokens/kmeans/val.npy")[0]
    images = decoder.decode(codes, torch.Generator().manual_seed(0))
    assert images.shape == (len(codes), 16, 16, 3) and images.dtype == np.uint8
    assert np.array_equal(images, decoder.decode(codes, torch.Generator().manual_seed(0), batch_size=3))
    own = load_decoder(pixel_toy / "data/codebook/vqgan/decoder")
    drawn = decoder.pixel_codes(torch.from_numpy(codes.astype(np.int64)), np.arange(len(codes), dtype=np.uint64))
    assert drawn.shape == (len(codes), own.num_patches) and 0 <= int(drawn.min()) <= int(drawn.max()) < own.num_codes
    assert toys.hashes(trained / f"data/decoder/kmeans-{name}/decoder") == toys.hashes(own_folder(pixel_toy)), "frozen"


def own_folder(root: Path) -> Path:
    return root / "data/codebook/vqgan/decoder"


@pytest.mark.parametrize("name", DECODERS)
def test_scores_curves_and_a_picture_are_there(name, trained):
    report = trained / "reports/decoder" / f"kmeans-{name}"
    scores = json.loads((report / "metrics.json").read_text())
    for split in ("train", "val"):
        assert 0 < scores[split]["nats_per_code"] < np.log(8) + 0.1
        assert 3 < scores[split]["psnr_db"] < 60 and 3 < scores[split]["pixel_tokenizer_psnr_db"] < 60
    curve = (report / "plots/metrics/val/nats_per_code.tsv").read_text().splitlines()[1:]
    assert len(curve) == 3 and float(curve[-1].split("\t")[1]) < float(curve[0].split("\t")[1])
    with Image.open(report / "pictures/rendered.png") as picture:
        assert picture.height == 3 * 17 * 4 - 4, "originals, the pixel tokenizer's own, renderings"


def pairs_of(root: Path, monkeypatch, **changes: int) -> CodePairs:
    monkeypatch.chdir(root)
    params, machine = load_params("render_ar"), load("machine", Machine).model_copy(update=changes)
    tokenizers = load_tokenizer("data/codebook/kmeans"), load_tokenizer("data/codebook/vqgan")
    return CodePairs(Path("data/images"), *tokenizers, params, machine, pick_device("cpu"))


def test_both_tokenizers_encode_the_same_augmented_images_and_shares_join_to_the_batch(pixel_toy, monkeypatch):
    pairs, encoded = pairs_of(pixel_toy, monkeypatch), []
    for tokenizer in (pairs.tokenizer, pairs.pixel_tokenizer):
        encode = tokenizer.encode_pixels
        monkeypatch.setattr(tokenizer, "encode_pixels", lambda p, encode=encode: (encoded.append(p), encode(p))[1])

    def codes_of_share() -> tuple[torch.Tensor, torch.Tensor]:
        return pairs.encode(augmented(*pairs.batches.batch_at(3)))

    given, pixel = codes_of_share()
    assert torch.equal(*encoded) and given.shape == (8, 16) and pixel.shape == (8, 16)
    plain = pairs.batches.splits["train"].read(pairs.batches.batch_index(3))
    assert not np.array_equal(pairs.codes_of(plain).pixel, pixel), "augmented"
    assert all(torch.equal(*both) for both in zip(codes_of_share(), (given, pixel), strict=True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(codes_of_share())
    for whole, *parts in zip((given, pixel), *shares, strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_the_eval_subset_has_the_codes_of_plain_images(pixel_toy, monkeypatch):
    pairs = pairs_of(pixel_toy, monkeypatch)
    val = ImageSplit(Path("data/images"), "val")
    eval_subset = pairs.eval_subset["val"]
    assert np.array_equal(eval_subset.images, val.read(range(len(val))))
    assert np.array_equal(eval_subset.given, np.load("data/tokens/kmeans/val.npy")[0])


@pytest.mark.parametrize("name", DECODERS)
def test_the_likelihood_does_not_depend_on_the_machines_batches(name, pixel_toy, trained, monkeypatch):
    network = load_decoder(trained / "data/decoder" / f"kmeans-{name}").network
    method = name.removeprefix("render_")
    large, small = (
        evaluate(1, network, pairs=pairs_of(pixel_toy, monkeypatch, infer_batch_size=size), method=method)
        for size in (16, 5)
    )
    assert large == small and set(large) == {"train/nats_per_code", "val/nats_per_code"}


class Killed(Exception):
    """Ends a run after a checkpoint."""


@pytest.mark.parametrize("name", DECODERS)
def test_interrupted_and_rerun_equals_undisturbed(name, pixel_toy, trained, tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "toy", f"data/decoder/kmeans-{name}"
    shutil.copytree(pixel_toy, root)
    toys.write_params(root, {**CHOICE, "machine": {"checkpoint_share": 1.0}})

    def save_and_die(self, facts, save=Checkpoint.save):
        save(self, facts)
        self.finish()
        if facts["step"] == 7:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Checkpoint, "save", save_and_die)
        toys.run_line(line("decoder", name), root)
    assert not (root / out).exists()
    toys.run_line(line("decoder", name), root)
    assert "resuming at step 7" in capsys.readouterr().out
    assert toys.hashes(root / out) == toys.hashes(trained / out)
    report = f"reports/decoder/kmeans-{name}"
    assert toys.hashes(root / report) == toys.hashes(trained / report)


def test_codes_of_two_codebooks_are_decoded_too(pixel_toy, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(pixel_toy, root)
    toys.write_params(root, {**CHOICE, "codebook": {"kmeans": {"blocks": [0, 1], "layers": "separate"}}})
    for command in ("codebook", "tokens"):
        toys.run(command, root)
    toys.run_line(line("decoder", "render_masked"), root)
    decoder = load_decoder(root / "data/decoder/kmeans-render_masked")
    codes = np.load(root / "data/tokens/kmeans/val.npy")[0]
    assert codes.shape[1] == 32 and decoder.decode(codes).shape == (len(codes), 16, 16, 3)
    assert np.array_equal(decoder.decode(codes[:4]), decoder.decode(codes)[:4])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"heads": 3}}, "decoder.render_ar.model: heads = 3: expected a divisor of dim = 32"),
        ({"sampling": {"top_p": 0.0}}, "decoder.render_ar.sampling.top_p = 0.0: input should be greater than 0"),
        ({"method": "diffusion"}, "decoder.render_ar.method = 'diffusion': input should be 'ar' or 'masked'"),
        ({"widths": [8]}, "decoder.render_ar.widths = .*: unknown key"),
    ],
)
def test_impossible_params_are_refused(changes, said, pixel_toy, tmp_path):
    shutil.copytree(pixel_toy / "data", tmp_path / "data")
    toys.write_params(tmp_path, {**CHOICE, "decoder": {"render_ar": changes}})
    with pytest.raises(UserError, match=said):
        toys.run_line(line("decoder", "render_ar"), tmp_path)


def test_method_masked_refuses_more_steps_than_pixel_codes(pixel_toy, tmp_path):
    shutil.copytree(pixel_toy / "data", tmp_path / "data")
    toys.write_params(tmp_path, {**CHOICE, "decoder": dict.fromkeys(DECODERS, {"sampling": {"steps": 17}})})
    with pytest.raises(
        UserError, match=r"render_masked.sampling.steps = 17: expected at most 16, the number of pixel codes"
    ):
        toys.run_line(line("decoder", "render_masked"), tmp_path)
    params = load_params("render_ar", tmp_path / "params.yaml")
    check_steps("decoder.render_ar", params, 16)  # which ignores `steps`


def test_a_missing_pixel_tokenizer_is_refused(pixel_toy, tmp_path):
    shutil.copytree(pixel_toy / "data", tmp_path / "data")
    empty, used = (tmp_path / "data/pixel_tokenizer" / name for name in ("onestep", "render_ar"))
    shutil.copytree(empty, used, dirs_exist_ok=True)
    toys.write_params(tmp_path, CHOICE)
    with pytest.raises(UserError, match="pixel_tokenizer.render_ar: missing; decoder render_ar of kind render needs"):
        toys.run_line(line("decoder", "render_ar"), tmp_path)
