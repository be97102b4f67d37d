"""What the benchmarks make before they measure, and that their figures mean what they say.

Run: uv run pytest tests/test_benchmarks.py
"""

import re
import sys

import pytest
import torch
from ruamel.yaml import YAML
from toy import ROOT

from benchmarks import engines, throughput
from benchmarks.trainings import seeded

TEXT = (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize("decoder", ["onestep", "onestep_vqgan", "render_masked", "diffusion_uniform"])
def test_the_seed_of_any_decoder_can_be_set_and_of_no_other(decoder):
    expected, made = (YAML(typ="safe").load(text) for text in (TEXT, seeded(TEXT, decoder, 5)))
    assert made["decoder"][decoder]["optim"]["seed"] == 5 != expected["decoder"][decoder]["optim"]["seed"]
    made["decoder"][decoder]["optim"]["seed"] = expected["decoder"][decoder]["optim"]["seed"]
    assert made == expected


def test_throughput_counts_all_operations_of_an_update(toy, monkeypatch, capsys):
    monkeypatch.chdir(toy)
    monkeypatch.setattr(sys, "argv", "throughput onestep --steps 1 --rounds 1".split())
    throughput.main()
    printed = capsys.readouterr().out
    assert re.search(r"images/s: updates [\d.,]+, batches [\d.,]+, both [\d.,]+", printed)
    assert 0 < float(re.search(r"MFU ([\d.]+)%", printed)[1]) < 100
    assert "convolution" in printed and not (toy / "data/decoder/kmeans-onestep").exists()


def test_operations_are_counted_forwards_and_backwards():
    left, right = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    with throughput.Operations() as counted:
        (left @ right).sum().backward()
    assert counted.total == 2 * (2 * 3 * 5 * 7)  # the product, and its gradient by `left`


def test_engines_are_compared_at_equal_vectors(monkeypatch, capsys, workdir):
    (workdir / "params.yaml").write_text(TEXT)
    monkeypatch.setattr(
        sys, "argv", "engines --vectors 3000 --dim 8 --codes 16 --rounds 1 --engines".split() + ["faiss, CPU"]
    )
    engines.main()
    errors = [float(error) for error in re.findall(r"error ([\d.]+)", capsys.readouterr().out)]
    assert len(errors) == 2 and errors[1] < errors[0]
