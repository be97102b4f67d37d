"""What the benchmarks make before they measure, and that their figures mean what they say.

Run: uv run pytest tests/test_benchmarks.py
"""

import re
import shutil
import sys
from importlib import import_module

import pytest
import torch
import toy as toys
from ruamel.yaml import YAML

from benchmarks import decoders, engines, group_decoding, lookup, roofline, sampling, throughput
from benchmarks.trainings import seeded
from stages.core import UserError

TEXT = (toys.ROOT / "params.yaml").read_text()


@pytest.mark.parametrize("name", sorted(path.stem for path in (toys.ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_says_how_to_run_it(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as done:
        import_module(f"benchmarks.{name}").main()
    assert done.value.code == 0 and "Run: " in capsys.readouterr().out


@pytest.mark.parametrize("decoder", ["onestep", "render_masked", "diffusion"])
def test_the_seed_of_any_decoder_can_be_set_and_of_no_other(decoder):
    expected, made = (YAML(typ="safe").load(text) for text in (TEXT, seeded(TEXT, decoder, 5)))
    assert made["decoder"][decoder]["optim"]["seed"] == 5 != expected["decoder"][decoder]["optim"]["seed"]
    made["decoder"][decoder]["optim"]["seed"] = expected["decoder"][decoder]["optim"]["seed"]
    assert made == expected


def throughput_of(root, decoder, gan, monkeypatch, capsys):
    """What the benchmark prints for a decoder of the toy with these params of its discriminator."""
    toys.write_params(root, {"decoder": {decoder: {"gan": gan}}})
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", f"throughput {decoder} --steps 1 --rounds 1".split())
    throughput.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_throughput_measures_updates_with_the_discriminators(toy, tmp_path, monkeypatch, capsys):
    root, decoder = shutil.copytree(toy, tmp_path / "toy"), "diffusion"
    toys.run_line(toys.COMMANDS["pixel_tokenizer"].replace("onestep", decoder), root)
    gans = [{"weight": weight, "start_share": 0.17} for weight in (0.0, 0.5)]
    printed = [throughput_of(root, decoder, gan, monkeypatch, capsys) for gan in gans]
    for text in printed:
        assert re.search(r"images/s: updates [\d.,]+, batches [\d.,]+, both [\d.,]+", text)
        assert 0 < float(re.search(r"MFU ([\d.]+)%", text)[1]) < 150
        assert "convolution" in text
    alone, with_gan = (float(re.search(r"([\d.e-]+) GFLOP per image", text)[1]) for text in printed)
    assert with_gan > alone > 0
    assert not any((root / path).exists() for path in ("data/decoder", "reports/decoder", "scratch/decoder"))


def test_throughput_of_a_decoder_without_gan_trainer_is_refused(tmp_path, monkeypatch):
    toys.write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["throughput", "render_ar"])
    with pytest.raises(UserError, match="render_ar: of kind render"):
        throughput.main()


def test_decoders_of_one_name_are_measured_apart(toy, tmp_path, capsys):
    root = shutil.copytree(toy, tmp_path / "toy")
    toys.run("decoder", root)
    capsys.readouterr()
    made = root / "data/decoder/kmeans-onestep"
    twin = shutil.copytree(made, tmp_path / made.name)
    decoders.compare(decoders.variants([made, twin], [], torch.device("cpu")), images=4, batch_size=2, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(made), str(twin)]
    assert all(f"of {made}" in line for line in lines) and "1.000 of" in lines[0]


def test_operations_are_counted_forwards_and_backwards():
    left, right = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    with throughput.Operations() as counted:
        (left @ right).sum().backward()
    assert counted.total == 2 * (2 * 3 * 5 * 7)  # the product, and its gradient by `left`


def test_lookups_are_compared_on_patches_side_by_side(toy, monkeypatch, capsys):
    sizes = f"--features {toy / 'data/features'} --codes 16 --vectors 300 --dim 80 --rounds 1"
    monkeypatch.setattr(sys, "argv", ["lookup", *sizes.split()])
    lookup.main()
    printed = capsys.readouterr().out
    assert "K = 16, 300 features of 80" in printed and printed.count("equal 1.000000") >= 4


def test_engines_start_alike_and_more_iterations_leave_less_error(monkeypatch, capsys, workdir):
    (workdir / "params.yaml").write_text(TEXT)
    monkeypatch.setitem(engines.ENGINES, "faiss, again", engines.ENGINES["faiss, CPU"])
    sizes = "--vectors 3000 --dim 8 --codes 16 --rounds 1 --iterations 1 2"
    monkeypatch.setattr(sys, "argv", ["engines", *sizes.split(), "--engines", "faiss, CPU", "faiss, again"])
    engines.main()
    errors = [float(error) for error in re.findall(r"error ([\d.]+)", capsys.readouterr().out)]
    assert errors[0] > errors[1] and errors[:2] == errors[2:]


def test_sampling_compares_networks_that_draw_the_same_codes(capsys):
    work = sampling.ours(batch=2, tokens=3)
    codes = {name: run() for name, run in work.items()}
    assert torch.equal(codes["ours"], codes["ours, unpacked"]) and codes["ours, bf16"].shape == (2, 3)
    sampling.alternated({"first": lambda: None, "second": lambda: None}, rounds=1)
    assert "first" in capsys.readouterr().out


def test_group_decoding_compares_samplers_of_whole_images():
    work = group_decoding.contenders(1, [2, 1])
    assert [*work] == ["parallel_ar, 2 steps", "parallel_ar, 1 steps", "ar", "ar_bits, 4 steps"]
    assert all(run().shape == (1, 64) for run in work.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_roofline_counts_products_and_what_they_read_and_write(precision):
    drawing, number = roofline.untrained(2, precision)["ar"], 4 if precision == "fp32" else 2
    with roofline.Counted() as counted:
        drawing.work()
    dim, depth, codes, places = (roofline.SHAPE[key] for key in ("dim", "depth", "num_codes", "num_patches"))
    weights = depth * 12 * dim**2 + dim * codes
    attended = depth * 4 * dim * places * (places + 1) // 2  # queries by keys and by values, two operations each
    assert drawing.tokens == 2 * places and counted.flops == 2 * (places * 2 * weights + attended)
    # Each position reads the weights and biases once, and the cache so far; rows of both samples come and go.
    least = places * weights * number + 2 * depth * 2 * dim * places * (places + 1) // 2 * number
    rows = places * 2 * number * (depth * (3 + 1 + 2 + 10 + 2) * dim + dim + codes) + places * number * (
        depth * 9 * dim + codes
    )
    assert least < counted.bytes <= least + rows
