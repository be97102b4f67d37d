"""vqgan and fsq: quantizers against independent ones, the autoencoder's halves, resuming.

Run: uv run pytest tests/test_vqgan.py
"""

import json
import shutil

import numpy as np
import pytest
import torch
import toy as toys

from stages.codebook.autoencoder import Autoencoder
from stages.codebook.quantizers import Fsq, Vq
from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError
from stages.core.metrics import usage
from stages.data.reader import ImageSplit
from stages.decoder.decoder import load_decoder

FIT = "stages.codebook.fit --name {0} --images data/images --encoder data/encoder --features data/features"
FIT += " --out data/codebook/{0} --report reports/codebook/{0}"  # it needs no --inputs: it reads no features


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """vqgan, with a discriminator from step 6 of 24, and fsq, on the toy's images."""
    root = tmp_path_factory.mktemp("vqgan") / "toy"
    shutil.copytree(toy, root)
    more = {"gan": {"start_share": 0.25, "width": 8}, "optim": {"total_steps": 24, "lr_peak": 0.01}}
    toys.write_params(root, {"codebook": {"vqgan": more, "fsq": more}})
    for name in ("vqgan", "fsq"):
        toys.run_line(FIT.format(name), root)
    return root


@pytest.mark.parametrize(
    ("levels", "count"),
    [([8, 8, 4], 256), ([8, 8, 8, 4], 2048), ([4, 2, 3], 24), ([8, 8, 5, 5, 5], 8000), ([8, 8, 8, 5, 5, 5], 64_000)],
)
def test_fsq_index_and_vector_name_each_other_for_every_code(levels, count):
    fsq = Fsq(levels)
    assert fsq.vectors.shape == (count, len(levels)) and len(fsq.vectors.unique(dim=0)) == count
    inside = torch.atanh((fsq.vectors * (fsq.levels // 2) + shift(fsq)) / reach(fsq)) - torch.atanh(
        shift(fsq) / reach(fsq)
    )
    points, codes, loss = fsq(inside)
    assert torch.equal(codes, torch.arange(count)) and float(loss) == 0
    torch.testing.assert_close(points, fsq.vectors)


def shift(fsq: Fsq) -> torch.Tensor:
    return torch.where(fsq.levels % 2 == 0, 0.5, 0.0)


def reach(fsq: Fsq) -> torch.Tensor:
    return (fsq.levels - 1) * 1.001 / 2


@pytest.mark.parametrize("levels", [[8, 8, 4], [5, 3], [8, 5, 5, 5]])
def test_fsq_equals_an_independent_one_on_random_rows(levels):
    from vector_quantize_pytorch import FSQ

    rows = torch.randn(3, 40, len(levels), generator=torch.Generator().manual_seed(0)) * 2
    points, codes, _ = Fsq(levels)(rows)
    wanted, indices = FSQ(levels)(rows)
    torch.testing.assert_close(points, wanted)
    assert torch.equal(codes, indices.long())


def test_fsq_places_a_row_within_half_a_level_of_its_codes_vector():
    fsq, rows = Fsq([8, 5, 2]), torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 5
    placed = fsq.in_code_space(rows)
    half_a_level = 0.5 / (fsq.levels // 2)
    assert ((placed - fsq.vectors[fsq.assign(rows)]).abs() <= half_a_level + 1e-5).all()
    assert rows.abs().max() > 5 > 2 > placed.abs().max(), "the rows themselves are unbounded"


def test_fsq_passes_the_gradient_of_the_bounded_row():
    rows = torch.randn(5, 2, requires_grad=True)
    fsq = Fsq([8, 5])
    fsq(rows)[0].sum().backward()
    given = rows.grad.clone()
    rows.grad = None
    fsq.scaled(fsq.digits(rows)).sum().backward()
    torch.testing.assert_close(given, rows.grad)


def test_vq_by_hand_codes_loss_and_both_gradients():
    torch.manual_seed(0)
    vq = Vq(5, 3, commitment=0.25)
    rows = torch.randn(4, 6, 3, requires_grad=True)
    quantized, codes, loss = vq(rows)
    table, flat = vq.vectors.detach(), rows.detach()
    wanted = ((flat[..., None, :] - table) ** 2).sum(-1).argmin(-1)
    assert torch.equal(codes, wanted)
    torch.testing.assert_close(quantized, table[wanted])
    error = (flat - table[wanted]).square().mean()
    torch.testing.assert_close(loss, 1.25 * error)
    upstream = torch.randn_like(quantized)
    ((quantized * upstream).sum() + loss).backward()
    held = 2 * 0.25 * (flat - table[wanted]) / flat.numel()
    torch.testing.assert_close(rows.grad, upstream + held, msg="straight through, and the commitment")
    pulled = torch.zeros_like(table).index_add(
        0, wanted.flatten(), (2 * (table[wanted] - flat) / flat.numel()).flatten(0, 1)
    )
    torch.testing.assert_close(vq.vectors.grad, pulled)


def test_input_noise_is_for_training_alone():
    torch.manual_seed(0)
    network = Autoencoder(Fsq([4, 4]), {"widths": [8, 8], "blocks": 1, "grid": 4}, noise=0.5, revive=False)
    pixels = torch.rand(2, 3, 8, 8)
    assert not torch.equal(network.train()(pixels)[0], network(pixels)[0])
    assert torch.equal(network.eval()(pixels)[0], network(pixels)[0])


@pytest.mark.parametrize("revive", [True, False])
def test_the_first_training_forward_puts_codes_on_rows_if_revive_and_else_moves_none(revive):
    torch.manual_seed(0)
    vq = Vq(30, 4, commitment=0.25)
    network = Autoencoder(vq, {"widths": [8, 8], "blocks": 1, "grid": 4}, noise=0.0, revive=revive).train()
    pixels, before = torch.rand(2, 3, 8, 8) * 2 - 1, vq.vectors.detach().clone()
    rows = network.encoder(pixels).detach().flatten(0, 1)
    network.eval()(pixels)
    assert torch.equal(vq.vectors, before), "evaluation moves none"
    network.train()(pixels)
    if revive:  # a dead code keeps 0.001 of itself
        near = torch.cdist(vq.vectors.detach(), rows).min(1).values
        assert (near < 0.01 * torch.cdist(before, rows).min(1).values).all()
    else:
        assert torch.equal(vq.vectors, before)


@pytest.mark.parametrize("name", ["vqgan", "fsq"])
def test_the_halves_work_together_as_tokenizer_and_joint_decoder(trained, name):
    tokenizer = load_tokenizer(trained / "data/codebook" / name)
    images = ImageSplit(trained / "data/images", "val").read(range(8))
    codes = tokenizer.encode(images)
    assert codes.shape == (8, 16) and codes.dtype == np.int64 and codes.max() < tokenizer.num_codes == 8
    decoder = load_decoder(trained / "data/codebook" / name / "decoder")
    decoded = decoder.decode(codes)
    assert decoded.shape == images.shape
    error = np.abs(decoded.astype(float) - images).mean()
    assert error < np.abs(decoded.astype(float) - images[::-1]).mean(), "each is nearest to its own image"
    features = tokenizer.features(torch.zeros(1, 3, 16, 16))
    assert torch.equal(tokenizer.codebook.assign(features), tokenizer.encode_pixels(torch.zeros(1, 3, 16, 16)))


@pytest.mark.parametrize("name", ["vqgan", "fsq"])
def test_usage_and_the_joint_decoders_psnr_are_reported(trained, name):
    figures = json.loads((trained / f"reports/codebook/{name}/metrics.json").read_text())
    images = ImageSplit(trained / "data/images", "val")
    codes = load_tokenizer(trained / "data/codebook" / name).encode(images.read(range(len(images))))
    counted = usage(np.bincount(codes.ravel(), minlength=8))
    assert figures["val"] == pytest.approx(counted, rel=1e-5), "the published weights are those that were measured"
    assert figures["eval_psnr_db"]["val"] > 5
    curve = (trained / f"reports/codebook/{name}/plots/metrics/val/psnr_db.tsv").read_text().splitlines()
    assert float(curve[-1].split("\t")[1]) > float(curve[1].split("\t")[1]), "it learns"


@pytest.mark.parametrize(
    ("name", "changes", "remedy"),
    [
        ("vqgan", {"num_codes": 200, "revive_dead_codes": False}, "revive_dead_codes: true"),
        ("fsq", {"levels": [64, 64]}, "fewer levels"),
    ],
)
def test_a_collapse_is_printed_with_its_remedy(name, changes, remedy, toy, tmp_path, capsys):
    root = tmp_path / "toy"
    shutil.copytree(toy, root)
    toys.write_params(root, {"codebook": {name: changes}})
    toys.run_line(FIT.format(name), root)
    said = capsys.readouterr().err
    figures = json.loads((root / f"reports/codebook/{name}/metrics.json").read_text())
    counted = f"only {figures['train']['live_codes']} of {figures['num_codes']:,} codes"
    assert f"warning: {name}: {counted}" in said and remedy in said
    assert "live_fraction" in said, "in the progress line"
    curve = (root / f"reports/codebook/{name}/plots/metrics/live_fraction.tsv").read_text().splitlines()
    assert len(curve) > 2 and all(0 < float(line.split("\t")[1]) < 0.5 for line in curve[1:])


def test_a_killed_vqgan_goes_on_to_the_same_bytes(trained, tmp_path, capsys):
    root = tmp_path / "toy"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("scratch"))
    shutil.rmtree(root / "data/codebook/vqgan")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, step=15)
        toys.run_line(FIT.format("vqgan"), root)
    assert not (root / "data/codebook/vqgan").exists()
    capsys.readouterr()
    toys.run_line(FIT.format("vqgan"), root)
    assert "resuming at step 15" in capsys.readouterr().out
    assert toys.hashes(root / "data/codebook/vqgan") == toys.hashes(trained / "data/codebook/vqgan")


def stop_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Raise KeyboardInterrupt in place of that training step; the steps just before it leave checkpoints."""
    from stages.core.gan_trainer import GanTrainer

    whole = GanTrainer.step

    def interrupted(self, now, *rest):
        if now == step:
            raise KeyboardInterrupt
        self.checkpoint.share = float(now > step - 3)
        return whole(self, now, *rest)

    patch.setattr(GanTrainer, "step", interrupted)


@pytest.mark.parametrize(("changes", "said"), [({"widths": [16, 8, 8, 8, 8, 8]}, "32 px; it has 16"),
                                               ({"perceptual_blocks": [9]}, "0 to 1")])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(toy, tmp_path, changes, said):
    for name in ("data", "params.yaml"):
        (tmp_path / name).symlink_to(toy / name)
    (tmp_path / "params.yaml").unlink()
    toys.write_params(tmp_path, {"codebook": {"vqgan": changes}})
    with pytest.raises(UserError, match=said):
        toys.run_line(FIT.format("vqgan"), tmp_path)
