"""Tokenizers and decoders on images larger than those of their training.

Run: pytest tests/test_resolution_transfer.py
"""

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
from stages.core.artifact import images_digest
from stages.core.metrics import psnr
from stages.core.networks import to_grid
from stages.data.reader import ImageSplit
from stages.data.scenes.enlarged import read_enlarged
from stages.decoder.decoder import Decoder, load_decoder
from stages.decoder.diffusion import DiffusionDecoder, VelocityNetwork
from stages.decoder.flow import Flow
from stages.decoder.onestep import OneStep, OneStepDecoder
from stages.studies.params import ResolutionTransfer

SCENES = {
    "source": "scenes",
    "folder": "data/code/no_folder",
    "scenes": {"count": 100, "max_objects": 2, "patterned": 0.8, "nuisance": 0.0},
    "img_px": 32,
}


def test_scenes_are_rendered_again_as_the_same_scenes_with_more_detail(tmp_path):
    toys.write_params(tmp_path, {"data": SCENES})
    toys.run("data", tmp_path)
    images, chosen = tmp_path / "data/images", np.array([3, 0, 29])
    val = ImageSplit(images, "val")
    plain, large = val.read(chosen), read_enlarged(images, val, chosen, 2)
    assert large.shape == (3, 64, 64, 3) and (read_enlarged(images, val, chosen, 1) == plain).all()
    down = large.reshape(3, 32, 2, 32, 2, 3).mean((2, 4))
    assert psnr(plain, down).min() > 30 > 15 > psnr(plain, down[[1, 2, 0]]).max(), "each its own scene"
    blown = np.stack([np.asarray(Image.fromarray(image).resize((64, 64), 3)) for image in plain])
    edges = [np.abs(np.diff(found.astype(float), axis=2)).max((1, 2, 3)) for found in (large, blown)]
    assert (edges[0] > 1.3 * edges[1]).all(), "edges as sharp as a pixel"


def test_other_images_are_enlarged(toy):
    images, chosen = toy / "data/images", np.array([5, 1])
    val = ImageSplit(images, "val")
    plain, large = val.read(chosen), read_enlarged(images, val, chosen, 4)
    assert large.shape == (2, 64, 64, 3) and large.dtype == np.uint8
    found = np.stack([np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)) for image in plain])
    assert (large == found).all() and (read_enlarged(images, val, chosen, 1) == plain).all()


def convolutional(kind: str) -> Decoder:
    """An untrained decoder of two codebooks of 2 x 2 codes for images of 8 px."""
    torch.manual_seed(0)
    config = {"kind": kind, "num_codes": 8, "codebooks": 2, "grid": 2, "img_px": 8}
    if kind == "onestep":
        return OneStepDecoder(OneStep(torch.randn(8, 4), 2, [8, 8, 8], 1).requires_grad_(False), config, "cpu")
    flow = Flow(gamma=0.6, variance=0.3, output="residual", residual=0.15, path="rectified")
    network = VelocityNetwork(torch.randn(8, 4), 2, [8, 8], 1, "concat", flow)
    torch.nn.init.normal_(network.unet.leave[-1].weight)  # starts at zero, where nothing depends on the codes
    config |= {"sampling": {"steps": 2, "spacing": "log"}}
    return DiffusionDecoder(network.requires_grad_(False), config, "cpu")


@pytest.mark.parametrize("kind", ["onestep", "diffusion"])
def test_a_larger_decoder_makes_larger_images_of_more_codes_with_the_same_weights(kind):
    decoder = convolutional(kind)
    codes = torch.randint(8, (3, 8), generator=torch.Generator().manual_seed(0))
    assert (decoder.enlarged(1).decode(codes) == decoder.decode(codes)).all()
    large = decoder.enlarged(4).decode(codes.repeat(1, 16))
    assert large.shape == (3, 32, 32, 3) and (large[0] != large[1]).any()
    assert decoder.config["grid"] == 2 and decoder.num_patches == 8, "the decoder itself stays as it was"
    with pytest.raises(UserError, match=r"expected \[B, 128\]"):
        decoder.enlarged(4).decode(codes)


def test_the_codes_of_each_codebook_keep_their_positions():
    tiles = torch.arange(8).view(2, 2, 2)  # codebook, row, column
    tiled = tiles.repeat(1, 2, 2).flatten()[None]
    vectors = torch.randn(8, 3)
    large, small = to_grid(vectors[tiled], 4), to_grid(vectors[tiles.flatten()[None]], 2)
    assert torch.equal(large, small.repeat(1, 1, 2, 2))


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Path:
    """The toy with vqgan, and a one-step decoder of its codes."""
    root = tmp_path_factory.mktemp("resolution_transfer") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    toys.run("decoder", root)
    for command in ("codebook", "decoder"):
        line = toys.COMMANDS[command]
        toys.run_line(line.replace("kmeans", "vqgan"), root)
    return root


VQGAN = "data/codebook/vqgan"
LINE = toys.COMMANDS["resolution_transfer"].replace("kmeans", "vqgan")


def measured(root: Path, name: str = "vqgan-onestep") -> dict:
    return json.loads((root / f"reports/resolution_transfer/{name}/metrics.json").read_text())


def test_a_convolutional_tokenizer_and_both_of_its_decoders_are_measured_at_every_scale(trained):
    toys.run_line(LINE, trained)
    metrics = measured(trained)
    assert metrics["name"] == "onestep" and metrics["tokenizer"] == "vqgan"
    for name, folder in (("decoder", "data/decoder/vqgan-onestep"), ("joint", f"{VQGAN}/decoder")):
        assert list(metrics[name]) == ["scale_1", "scale_2"]
        val = ImageSplit(trained / "data/images", "val")
        chosen = np.sort(np.random.default_rng(0).choice(len(val), 12, replace=False))
        codes = load_tokenizer(trained / VQGAN).encode(val.read(chosen))
        own = psnr(val.read(chosen), load_decoder(trained / folder, "cpu", "bf16").decode(codes)).mean()
        assert metrics[name]["scale_1"]["psnr_db"] == pytest.approx(own, abs=1e-3)
        assert metrics[name]["scale_2"]["psnr_db"] > 3 and metrics[name]["scale_2"]["ssim_std"] > 0
    with Image.open(trained / "reports/resolution_transfer/vqgan-onestep/pictures/scales.png") as picture:
        assert picture.size == (6 * 33 * 2 - 2, 3 * 33 * 2 - 2), "two scales of original and two reconstructions"
    toys.write_params(trained, {"machine": {"infer_batch_size": 5}})
    toys.run_line(LINE, trained)
    again = measured(trained)
    assert again["joint"]["scale_2"] == pytest.approx(metrics["joint"]["scale_2"], abs=1e-3)
    assert again["protocol"] == metrics["protocol"] and again["protocol"][0]["larger_images"] == "bicubic"


def test_networks_of_one_image_size_are_skipped_with_the_reason(trained, monkeypatch):
    toys.run("resolution_transfer", trained)
    assert measured(trained, "kmeans-onestep") == {
        "images": images_digest(trained / "data/images"),
        "skipped": "kmeans: a tokenizer of kind kmeans takes images of one size",
    }
    monkeypatch.setattr(OneStepDecoder, "any_size", False)
    toys.run_line(LINE, trained)
    assert "vqgan-onestep: a decoder of kind onestep makes images of one size" in measured(trained)["skipped"]
    with pytest.raises(UserError, match="kind onestep decodes images of its training size only"):
        load_decoder(trained / "data/decoder/vqgan-onestep").enlarged(2)


def test_scales_differ():
    with pytest.raises(ValueError, match=r"\[2, 2\]: expected different numbers"):
        ResolutionTransfer(
            scales=[2, 2], max_images=2, decoding_precision="fp32", bootstrap_draws=2, images_shown=1, seed=0
        )
