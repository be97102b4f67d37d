"""Noise on the codes that a generator reads, against brute force.

Run: uv run pytest tests/test_code_noise.py
"""

from types import SimpleNamespace

import pytest
import torch
import toy as toys
from safetensors.torch import save_file
from torch.nn.functional import one_hot

from stages.core import UserError, artifact
from stages.core.sampling import autoregressive_loss
from stages.generator.code_noise import NoisyCodes, load_nearest, nearest_codes
from stages.generator.params import CodeNoise


def write_codebook(folder, vectors, codebooks):
    """A codebook artifact of these vectors."""
    with artifact.new_artifact(folder, "codebook", {"normalize": False, "codebooks": codebooks}) as new:
        save_file({"vectors": vectors}, new / "codes.safetensors")
    return folder


def test_nearest_codes_equal_a_sort_of_all_distances():
    vectors = torch.randn(1500, 4)  # more than are compared at once
    found = nearest_codes(vectors, 3)
    for code in (0, 700, 1499):
        distances = (vectors - vectors[code]).square().sum(1)
        assert found[code].tolist() == distances.argsort()[1:4].tolist()


def test_codes_of_another_codebook_are_never_near(tmp_path):
    vectors = torch.randn(2 * 5, 3)
    near = load_nearest(write_codebook(tmp_path / "codebook", vectors, 2), CodeNoise(share=0.5, nearest=4))
    assert near.shape == (10, 4)
    assert [sorted(row) for row in near[5:].tolist()] == [sorted({*range(5, 10)} - {code}) for code in range(5, 10)]


def test_more_near_codes_than_there_are_is_an_error(tmp_path):
    folder = write_codebook(tmp_path / "codebook", torch.randn(5, 3), 1)
    with pytest.raises(UserError, match="nearest = 5: expected less than 5 codes"):
        load_nearest(folder, CodeNoise(share=0.5, nearest=5))


def test_the_given_share_of_codes_is_replaced_by_near_ones_and_masks_stay():
    near = torch.stack([(torch.arange(10) + step) % 10 for step in (1, 2)], 1)
    codes = torch.arange(11).repeat(400, 10)  # 10: a mask
    noisy = NoisyCodes(None, near, 0.3, torch.Generator().manual_seed(0)).replace(codes)
    steps = (noisy - codes) % 10
    assert set(steps.unique().tolist()) == {0, 1, 2} and torch.equal(noisy[codes == 10], codes[codes == 10])
    shares = [float((steps[codes < 10] == step).float().mean()) for step in (1, 2)]
    assert shares == pytest.approx([0.15, 0.15], abs=0.01)


def test_what_is_learned_is_the_true_code():
    """A model that says what it reads is right of true codes alone."""
    codes, near = torch.randint(4, (64, 9)), torch.tensor([[1], [2], [3], [0]])

    def value(share):
        noise = torch.Generator().manual_seed(1)
        model = NoisyCodes(lambda given, read: 20.0 * one_hot(read, 4), near, share, noise)
        return float(autoregressive_loss(model, torch.zeros(64), codes, torch.Generator(), 0.0))

    assert value(0.0) < 1e-6 and value(0.5) == pytest.approx(10, abs=1)


def test_the_loss_of_a_training_changes_with_the_noise_and_repeats_itself(toy, tmp_path):
    (tmp_path / "data").symlink_to(toy / "data")
    losses = []
    for number, share in enumerate((0.0, 0.4, 0.4)):
        toys.write_params(tmp_path, {"generator": {"model": {"code_noise": {"share": share, "nearest": 3}}}})
        toys.run_line(
            "stages.generator.train --name ar --tokens data/tokens/kmeans --codebook data/codebook/kmeans "
            f"--captions data/captions/ar --text data/text --out {number}/kmeans-ar --report {number}/report",
            tmp_path,
        )
        losses.append((tmp_path / f"{number}/report/plots/metrics/loss.tsv").read_text())
    assert losses[0] != losses[1] == losses[2]


def test_a_wrapped_model_shows_its_own_numbers():
    assert NoisyCodes(SimpleNamespace(num_codes=7), torch.zeros(1, 1), 0.1, torch.Generator()).num_codes == 7
