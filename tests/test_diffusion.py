"""The diffusion decoder on the toy: it learns, decodes by seed and codes, resumes, and refuses impossible params.

Run: uv run pytest tests/test_diffusion.py
"""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy as toys
from safetensors.torch import load_file

from stages.core import UserError
from stages.data.reader import ImageSplit
from stages.decoder.decoder import load_decoder
from stages.decoder.diffusion_training import TimedDiscriminator, denoise
from stages.decoder.flow import Flow
from stages.decoder.params import load_params

PICK, TRAIN = (toys.COMMANDS[name].replace("onestep", "diffusion") for name in ("pixel_tokenizer", "decoder"))
CHANGES = {"gan": {"start_share": 0.25, "width": 8}, "optim": {"total_steps": 40, "eval_share": 0.25, "lr_peak": 0.01}}
# Every ablation of the paper that is not the default, at once.
ABLATION = {
    "conditioning": "adagn",
    "flow": {"gamma": 1.0, "output": "velocity", "path": "cosine", "times": "uniform"},
    "sampling": {"steps": 2, "spacing": "linear"},
    "perceptual_weight": 0.0,
    "gan": {"start_share": 0.0, "context": "plain"},
    "optim": {"total_steps": 3},
}


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    root = tmp_path_factory.mktemp("diffusion") / "toy"
    shutil.copytree(toy, root)
    train(root, CHANGES)
    return root


def train(root, changes: dict, **more: dict) -> None:
    toys.write_params(root, {"decoder": {"diffusion": changes}, **more})
    toys.run_line(PICK, root)
    toys.run_line(TRAIN, root)


@pytest.fixture(scope="module")
def decoder(trained):
    return load_decoder(trained / "data/decoder/kmeans-diffusion")


@pytest.fixture(scope="module")
def codes(trained):
    return np.load(trained / "data/tokens/kmeans/val.npy")[0]


def test_it_learns_to_decode_the_codes(trained, decoder, codes):
    curves = trained / "reports/decoder/kmeans-diffusion/plots/metrics"
    psnr = [float(row.split("\t")[1]) for row in (curves / "train/psnr_db.tsv").read_text().splitlines()[1:]]
    assert psnr[-1] > psnr[0] + 1 and {p.stem for p in curves.glob("*.tsv")} >= {"score", "r1", "discriminator"}
    val = ImageSplit(trained / "data/images", "val").read(range(len(codes))).astype(float)
    decoded = decoder.decode(codes).astype(float)
    assert np.abs(decoded - val).mean() < np.abs(decoded - val[::-1]).mean()


def test_decoding_gives_uint8_images_in_any_number_of_steps(decoder, codes):
    for one in (decoder, decoder.with_steps(1), decoder.with_steps(5)):
        images = one.decode(codes[:3])
        assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    assert np.array_equal(decoder.decode(codes[:3]), decoder.with_steps(3).decode(codes[:3])), "the config's three"
    with pytest.raises(UserError, match="steps = 0: expected greater than 0"):
        decoder.with_steps(0)


def test_equal_seeds_and_codes_give_equal_images_and_another_seed_another(decoder, codes):
    def drawn(seed: int, part: np.ndarray) -> np.ndarray:
        return decoder.decode(part, torch.Generator().manual_seed(seed)).astype(int)

    assert np.array_equal(drawn(1, codes), drawn(1, codes))
    assert np.abs(drawn(1, codes) - drawn(2, codes)).mean() > 0.1
    # Sums of convolutions are ordered by the batch's size: at most one gray level apart after rounding.
    assert np.abs(drawn(1, codes)[4:5] - drawn(1, codes[4:5])).max() <= 1


def test_the_artifact_knows_the_variance_of_its_pixels_and_how_to_sample(trained):
    config = json.loads((trained / "data/decoder/kmeans-diffusion/config.json").read_text())
    images = ImageSplit(trained / "data/images", "train")
    pixels = images.read(range(len(images))) / 127.5 - 1
    assert config["flow"]["variance"] == pytest.approx(pixels.var(), rel=1e-6)
    assert config["sampling"] == {"steps": 3, "spacing": "log"} and config["kind"] == "diffusion"


def test_every_ablation_of_the_paper_is_a_matter_of_params(trained, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(trained, root)
    train(root, ABLATION)
    config = load_decoder(root / "data/decoder/kmeans-diffusion").config
    assert config["conditioning"] == "adagn" and config["flow"]["output"] == "velocity"
    train(root, {**ABLATION, "gan": {"weight": 0.0, "start_share": 0.0}})
    assert not (root / "reports/decoder/kmeans-diffusion/plots/metrics/discriminator.tsv").exists()


def test_decoders_that_differ_in_sampling_alone_have_the_same_weights(trained, tmp_path):
    shutil.copytree(trained, root := tmp_path / "toy")
    short = {**toys.CONV, "gan": {"start_share": 0.5, "width": 8}, "optim": {**toys.OPTIM, "total_steps": 4}}
    names, found = ("diffusion", "diffusion_linear"), []
    params = load_params("diffusion", toys.write_params(root, {"decoder": {"diffusion": short}})).model_dump()
    linear = {**params, "sampling": {**params["sampling"], "spacing": "linear"}}
    toys.write_params(root, {"decoder": {"diffusion": short, "diffusion_linear": linear}})
    for name in names:
        for line in (PICK, TRAIN):
            toys.run_line(line.replace("diffusion", name), root)
        out = root / f"data/decoder/kmeans-{name}"
        found.append((load_decoder(out).config["sampling"]["spacing"], (out / "model.safetensors").read_bytes()))
    assert [spacing for spacing, _ in found] == ["log", "linear"] and found[0][1] == found[1][1]


def test_a_killed_training_resumes_to_the_same_bytes(trained, tmp_path, monkeypatch, capsys):
    from stages.core.gan_trainer import GanTrainer

    root, whole = tmp_path / "toy", GanTrainer.step

    def interrupted(self, now, *rest):
        if now == 20:
            raise KeyboardInterrupt
        self.checkpoint.share = float(now > 17)  # at each of the last steps
        return whole(self, now, *rest)

    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("scratch"))
    shutil.rmtree(root / "data/decoder")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GanTrainer, "step", interrupted)
        train(root, CHANGES)
    assert not (root / "data/decoder/kmeans-diffusion").exists()
    capsys.readouterr()
    toys.run_line(TRAIN, root)
    assert "resuming at step 20" in capsys.readouterr().out
    assert toys.hashes(root / "data/decoder") == toys.hashes(trained / "data/decoder")


def test_a_non_finite_loss_stops_training_with_step_and_batch(trained, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("scratch"))
    shutil.rmtree(root / "data/decoder")
    with pytest.raises(UserError, match=r"non-finite loss or gradient at step \d+, on the batch \['0"):
        train(root, {"optim": {"lr_peak": 1e30, "warmup_share": 0.0}})
    assert not (root / "data/decoder").exists()


@pytest.mark.parametrize("factor", [float("nan"), 1e37])
def test_a_broken_discriminator_leaves_finite_weights(trained, tmp_path, monkeypatch, factor):
    shutil.copytree(trained, root := tmp_path / "toy")
    sane = TimedDiscriminator.forward
    monkeypatch.setattr(TimedDiscriminator, "forward", lambda self, *inputs: sane(self, *inputs) * factor)
    train(root, {"gan": {"start_share": 0.25, "width": 8}, "optim": {"total_steps": 8, "eval_share": 0.5}})
    weights = load_file(root / "data/decoder/kmeans-diffusion/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"perceptual_blocks": [9]}, "0 to 1"), ({"gan": {"start_share": 1.0}}, "start_share = 1.0: input should be less"),
     ({"flow": {"gamma": 0.0}}, "flow.gamma = 0.0"), ({"sampling": {"steps": 0}}, "sampling.steps = 0")],
)  # fmt: skip
def test_impossible_params_are_refused(trained, tmp_path, changes, said):
    (tmp_path / "data").symlink_to(trained / "data")
    toys.write_params(tmp_path, {"decoder": {"diffusion": changes}})
    with pytest.raises(UserError, match=said):
        toys.run_line(TRAIN, tmp_path)


@pytest.mark.parametrize("context", ["trajectory", "plain"])
def test_the_discriminators_context_is_the_noisy_image_and_its_time_or_nothing(context):
    class TrueVelocity:
        """The exact velocity of images whose pixels are all 0.5."""

        flow = Flow(0.6, 0.25, "velocity", 0.15, "rectified")

        def __call__(self, x_t, t, codes):
            self.inputs = x_t, t
            signal = 0.6 * torch.full_like(x_t, 0.5)
            return (x_t - signal) / t[:, None, None, None]

    params = SimpleNamespace(
        flow=SimpleNamespace(times="uniform", time_mean=0.0, time_std=1.0), gan=SimpleNamespace(context=context)
    )
    network, pixels = TrueVelocity(), torch.full((64, 3, 4, 4), 0.5)
    fake = denoise(network, pixels, torch.zeros(64, 1, dtype=torch.long), params)
    torch.testing.assert_close(fake.pixels, pixels, atol=1e-4, rtol=0)
    assert float(fake.loss) < 1e-6, "the velocity that leads there has no loss"
    x_t, t = network.inputs
    if context == "trajectory":
        assert torch.equal(fake.context[0], network.flow.scaled(x_t, t)) and torch.equal(fake.context[1], t)
    else:
        assert fake.context == ()


class Still:
    """Velocity 0."""

    flow = Flow(0.6, 0.25, "velocity", 0.15, "rectified")

    def __call__(self, x_t, t, codes):
        return torch.zeros_like(x_t)


def test_two_processes_draw_the_times_and_noise_of_one(monkeypatch):
    params = SimpleNamespace(
        flow=SimpleNamespace(times="logit-normal", time_mean=0.8, time_std=1.0),
        gan=SimpleNamespace(context="trajectory"),
    )
    network = Still()
    pixels, parts = torch.randn(6, 3, 4, 4), []

    def contexts(share: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        return denoise(network, share, None, params).context

    whole = contexts(pixels)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(contexts(pixels[3 * rank : 3 * rank + 3]))
    assert all(torch.equal(torch.cat(two), one) for two, one in zip(zip(*parts, strict=True), whole, strict=True))
