"""The onestep decoder on the toy: shapes, perceptual losses, GAN training, resuming, refusals.

Run: uv run pytest tests/test_decoder.py
"""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import toy as toys
from PIL import Image

from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError, artifact, discriminator
from stages.core.discriminator import PatchDiscriminator
from stages.core.gan_trainer import GanTrainer
from stages.core.images import augmented
from stages.core.networks import EncoderPerceptual, LpipsPerceptual
from stages.decoder.decoder import load_decoder, standardized
from stages.decoder.onestep import OneStep
from stages.decoder.training import widths_from
from stages.encoder.encoder import load_encoder

GAN = {"decoder": {"onestep": {
    "gan": {"weight": 0.02, "start_share": 0.5, "width": 8},
    "optim": {"total_steps": 60, "lr_peak": 0.02, "warmup_share": 0.034, "eval_share": 0.067},
}}}  # fmt: skip


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    root = tmp_path_factory.mktemp("decoder") / "toy"
    shutil.copytree(toy, root)
    toys.write_params(root, GAN)
    toys.run("decoder", root)
    return root


def curve(root, name: str) -> list[float]:
    rows = (root / f"reports/decoder/kmeans-onestep/plots/metrics/{name}.tsv").read_text().splitlines()[1:]
    return [float(row.split("\t")[1]) for row in rows]


def test_it_learns_and_shows_a_picture_per_evaluation(trained):
    psnr = curve(trained, "train/psnr_db")
    assert psnr[-1] > psnr[0] + 2, psnr
    pictures = sorted((trained / "reports/decoder/kmeans-onestep/pictures").glob("*.png"))
    with Image.open(pictures[-1]) as picture:
        assert len(pictures) == len(psnr) and picture.height >= 32
    assert curve(trained, "discriminator"), "the discriminator was active"


def test_a_discriminator_that_chases_costs_less_because_its_term_is_off(trained, toy, tmp_path, monkeypatch, capsys):
    assert max(curve(trained, "adversarial_off")) == 0, "a discriminator that learns keeps its term"
    gan = {"weight": 0.8, "lr": 0.5, "start_share": 0.0, "width": 8}
    changes, psnr = {"gan": gan, "optim": {"total_steps": 80, "lr_peak": 0.02, "eval_share": 0.25}}, []
    for ceiling in (discriminator.CEILING, math.inf):
        monkeypatch.setattr(discriminator, "CEILING", ceiling)
        root = shutil.copytree(toy, tmp_path / str(ceiling))
        toys.write_params(root, {"decoder": {"onestep": changes}})
        toys.run("decoder", root)
        off = curve(root, "adversarial_off")[-1]
        assert (off > 0.5) == (ceiling < math.inf)
        assert f"no adversarial term in {80 * off:.0f} of 80 steps ({off:.1%})" in capsys.readouterr().out
        psnr.append(curve(root, "val/psnr_db")[-1])
    assert psnr[0] > psnr[1] + 0.4, "without any discriminator it is 10.0 dB"


def test_a_moved_artifact_decodes_to_uint8_images_that_do_not_depend_on_the_batch(trained, tmp_path):
    decoder = load_decoder(shutil.copytree(trained / "data/decoder/kmeans-onestep", tmp_path / "moved"))
    codes = np.load(trained / "data/tokens/kmeans/val.npy")[0]
    images = decoder.decode(codes)
    assert images.shape == (len(codes), 16, 16, 3) and images.dtype == np.uint8
    assert np.abs(images[:1].astype(int) - decoder.decode(codes[:1])).max() <= 1


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (np.zeros((1, 15), np.uint16), r"codes: shape \[1, 15\]: expected \[B, 16\]"),
        (np.zeros(15, np.uint16), r"codes: .*expected \[B, 16\]"),
        (np.full((1, 16), 8, np.uint16), r"codes: 8 \(uint16\): expected integers from 0 to 7"),
        (np.full((1, 16), -1), "codes: -1 "),
        (np.full((1, 16), 2**64 - 1, np.uint64), "codes: 18446744073709551615 "),
        ([[0] * 15 + [1.5]], "codes: 0.0 .float64.: expected integers from 0 to 7"),
        (torch.ones(1, 16, dtype=torch.bfloat16), "codes: 1.0 "),
        (torch.ones(1, 16, dtype=torch.bool), "codes: True "),
        ([[1], [1, 2]], "codes: .*expected integers"),
    ],
)
def test_codes_of_another_shape_type_or_range_are_refused_with_the_value(codes, said, trained):
    with pytest.raises(UserError, match=said):
        load_decoder(trained / "data/decoder/kmeans-onestep").decode(codes)


def test_codes_are_int64_and_given_back_as_any_integers(trained):
    tokenizer = load_tokenizer(trained / "data/codebook/kmeans")
    decoder = load_decoder(trained / "data/decoder/kmeans-onestep")
    codes = tokenizer.encode(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8))
    images = decoder.decode(codes)
    assert codes.dtype == tokenizer.encode(np.zeros((0, 16, 16, 3), np.uint8)).dtype == np.int64
    dtypes = ["uint8", "int8", ">u2", "uint16", "uint32", "uint64", "int32"]
    given = [codes.tolist(), torch.from_numpy(codes), *(codes.astype(dtype) for dtype in dtypes)]
    given += [torch.from_numpy(codes.astype(dtype)) for dtype in ("uint8", "uint16", "uint32", "uint64", "int16")]
    for same in given:
        assert np.array_equal(decoder.decode(same), images) and tokenizer.vectors(same).shape == (3, 16, 32)


@pytest.mark.parametrize(
    ("grid", "img_px", "widths"),
    [(8, 32, [128, 64, 32]), (4, 32, [128, 128, 64, 32]), (2, 64, [128, 128, 128, 128, 64, 32]), (16, 32, [64, 32]),
     (32, 32, [32])],
)  # fmt: skip
def test_levels_are_as_many_as_the_grid_needs_and_the_last_width_is_at_full_size(grid, img_px, widths):
    assert widths_from(grid, img_px, [128, 64, 32]) == widths
    images = OneStep(torch.randn(4, 8), 1, [8 * (width // 32) for width in widths], 1)(torch.zeros(1, grid**2).long())
    assert images.shape == (1, 3, img_px, img_px)


def test_a_grid_that_doubling_does_not_bring_to_the_images_size_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "toy")
    folder = tmp_path / "toy/data/codebook/kmeans"
    (folder / "config.json").write_bytes(artifact.with_checksum({**artifact.read(folder), "grid": 3}))
    with pytest.raises(UserError, match="3 x 3 codes do not become 16 px by doubling"):
        toys.run_line(toys.COMMANDS["decoder"], tmp_path / "toy")


def test_a_decoder_of_an_unknown_kind_is_refused(trained, tmp_path):
    config = artifact.read(trained / "data/decoder/kmeans-onestep")
    (tmp_path / "config.json").write_bytes(artifact.with_checksum({**config, "kind": "crystal"}))
    with pytest.raises(UserError, match="a decoder of kind 'crystal'"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("command", ["reconstruction", "decoding_steps", "resolution_transfer"])
def test_a_decoder_of_another_tokenizers_codes_is_refused(command, trained, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(trained, root)
    config = artifact.read(root / "data/codebook/kmeans")
    (root / "data/codebook/kmeans/config.json").write_bytes(artifact.with_checksum({**config, "seed": 1}))
    with pytest.raises(UserError, match="kmeans-onestep: was not trained on the codes of data/codebook/kmeans"):
        toys.run_line(toys.COMMANDS[command], root)


def test_the_code_vectors_are_not_trained(trained):
    network = load_decoder(trained / "data/decoder/kmeans-onestep").network
    given = load_tokenizer(trained / "data/codebook/kmeans").codebook.vectors
    assert torch.equal(network.vectors, standardized(given))


def test_identical_images_have_no_perceptual_distance_and_others_do(toy):
    encoder = load_encoder(toy / "data/encoder")
    loss, first, second = EncoderPerceptual(encoder, [0, 1]), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert float(loss(first, first)) == pytest.approx(0, abs=1e-5)
    assert float(loss(second, first)) > 1e-3
    each = loss.of_each(second, first)
    assert each[1] == pytest.approx(float(loss(second[1:], first[1:]))) and each.mean() == loss(second, first)


def test_lpips_takes_torchvisions_vgg16_from_a_file(tmp_path):
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])  # those of vgg16
    save_file({f"features.{k}": v for k, v in features.state_dict().items()}, tmp_path / "vgg.safetensors")
    loss = LpipsPerceptual(str(tmp_path / "vgg.safetensors"))
    kept = loss.net.net.state_dict()
    assert torch.equal(kept["slice5.28.weight"], features[28].weight)
    first = torch.rand(1, 3, 32, 32) * 2 - 1
    assert float(loss(first, first)) == 0 and float(loss(-first, first)) > 0


def test_other_weights_for_lpips_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.safetensors")
    with pytest.raises(UserError, match="not torchvision's VGG-16"):
        LpipsPerceptual(str(tmp_path / "vgg.safetensors"))


def test_a_non_finite_loss_stops_training_with_step_and_batch(toy, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(toy, root)
    toys.write_params(root, {"decoder": {"onestep": {"optim": {"lr_peak": 1e30, "warmup_share": 0.0}}}})
    with pytest.raises(UserError, match=r"non-finite loss or gradient at step \d+, on the batch \['0"):
        toys.run("decoder", root)
    assert not (root / "data/decoder").exists()


def test_a_training_stopped_by_a_non_finite_loss_resumes_before_it(trained, tmp_path, monkeypatch, capsys):
    root, whole = tmp_path / "toy", GanTrainer.step
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("scratch"))
    shutil.rmtree(root / "data/decoder")

    def broken_at_40(self, now, *rest):
        self.checkpoint.share = float(now > 37)  # at each of the last steps
        with monkeypatch.context() as patch:
            patch.setattr("stages.core.gan_trainer.augmented", lambda *batch: augmented(*batch) / (now != 40))
            return whole(self, now, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(GanTrainer, "step", broken_at_40)
        with pytest.raises(UserError, match="non-finite loss or gradient at step 40, on the batch"):
            toys.run("decoder", root)
    toys.run("decoder", root)
    assert "resuming at step 40" in capsys.readouterr().out
    assert toys.hashes(root / "data/decoder") == toys.hashes(trained / "data/decoder")


@pytest.mark.parametrize(("factor", "weighting"), [(float("nan"), "adaptive"), (1e37, "fixed")])
def test_a_broken_discriminator_leaves_finite_weights_after_a_whole_training(
    toy, tmp_path, monkeypatch, factor, weighting
):
    from safetensors.torch import load_file

    root = tmp_path / "toy"
    shutil.copytree(toy, root)
    gan = {"weight": 0.5, "start_share": 0.25, "width": 8, "weighting": weighting}
    toys.write_params(root, {"decoder": {"onestep": {"gan": gan, "optim": {"total_steps": 8, "eval_share": 0.5}}}})
    sane = PatchDiscriminator.forward
    monkeypatch.setattr(PatchDiscriminator, "forward", lambda self, pixels: sane(self, pixels) * factor)
    toys.run("decoder", root)
    weights = load_file(root / "data/decoder/kmeans-onestep/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_fixed_weight_and_a_feature_discriminator_train_it_too(toy, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(toy, root)
    gan = {"weight": 0.1, "start_share": 0.5, "width": 8, "weighting": "fixed", "discriminator": "features"}
    toys.write_params(root, {"decoder": {"onestep": {"gan": gan, "optim": {"total_steps": 4}}}})
    toys.run("decoder", root)
    assert curve(root, "discriminator")[-1] > 0 and curve(root, "adversarial")
    assert not (root / "reports/decoder/kmeans-onestep/plots/metrics/adaptive.tsv").exists()


def test_the_config_holds_no_paths(trained):
    text = (trained / "data/decoder/kmeans-onestep/config.json").read_text()
    config = json.loads(text)
    assert str(trained) not in text and set(config) >= {"grid", "codebooks", "widths", "inputs", "files"}
    names = {"artifact": "decoder", "kind": "onestep", "name": "onestep", "tokenizer": "kmeans"}
    assert {key: config[key] for key in names} == names
