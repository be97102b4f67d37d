"""A GPU makes what the CPU makes, up to rounding: features, codes, k-means, training, decoded images.

Run: uv run pytest tests/test_gpu.py      (skipped without a GPU; flash-kmeans: uv pip install flash-kmeans)
"""

import json
import shutil

import numpy as np
import pytest
import torch
import toy as toys

from benchmarks.engines import error_of, mixture
from stages.codebook.engines import cluster_by_faiss, cluster_by_flash
from stages.codebook.params import Kmeans
from stages.codebook.quantizers import nearest
from stages.core.params import load
from stages.features.reader import FeatureSplit
from stages.tokens.reader import load_tokens

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DECODERS, GAN = ("onestep", "diffusion"), {"weight": 0.1, "start_share": 0.33}


@pytest.fixture(scope="module")
def roots(toy, tmp_path_factory):
    """The toy's features, tokens and two decoders, in fp32 with their games, made on the CPU and on the GPU."""
    made = {}
    for device in ("cpu", "cuda"):
        root = shutil.copytree(toy, tmp_path_factory.mktemp("on") / device, ignore=shutil.ignore_patterns("scratch"))
        toys.write_params(root, {"machine": {"device": device}, "decoder": dict.fromkeys(DECODERS, {"gan": GAN})})
        for command in ("features", "tokens"):
            toys.run(command, root)
        for name in DECODERS:
            for command in ("pixel_tokenizer", "decoder"):
                toys.run_line(toys.COMMANDS[command].replace("onestep", name), root)
        made[device] = root
    return made


def test_features_and_codes_are_those_of_the_cpu(roots):
    splits = (FeatureSplit(root / "data/features", "train") for root in roots.values())
    cpu, gpu = (np.stack(list(split)).astype(np.float32) for split in splits)
    assert np.abs(cpu - gpu).max() < 0.02 * cpu.std()
    codes = [load_tokens(root / "data/tokens/kmeans", "train").codes for root in roots.values()]
    assert np.mean(codes[0] == codes[1]) > 0.99


def scores(root, name):
    """The last row of a decoder's curves."""
    return json.loads((root / f"reports/decoder/kmeans-{name}/metrics.json").read_text())


@pytest.mark.parametrize("name", DECODERS)
def test_training_ends_where_it_ends_on_the_cpu(roots, name):
    cpu, gpu = (scores(root, name) for root in roots.values())
    assert gpu["discriminator"] == pytest.approx(cpu["discriminator"], rel=0.05)
    assert gpu["pixel"] == pytest.approx(cpu["pixel"], rel=0.02)
    assert gpu["val"]["psnr_db"] == pytest.approx(cpu["val"]["psnr_db"], abs=0.1)


@pytest.mark.parametrize("name", DECODERS)
def test_bf16_trains_about_as_well(roots, name, tmp_path):
    root = shutil.copytree(roots["cuda"], tmp_path / "bf16", ignore=shutil.ignore_patterns("scratch"))
    optim = {**toys.OPTIM, "precision": "bf16"}
    toys.write_params(root, {"machine": {"device": "cuda"}, "decoder": {name: {"gan": GAN, "optim": optim}}})
    toys.run_line(toys.COMMANDS["decoder"].replace("onestep", name), root)
    assert scores(root, name)["pixel"] == pytest.approx(scores(roots["cuda"], name)["pixel"], rel=0.1)


@pytest.mark.parametrize("name", DECODERS)
def test_an_image_is_that_of_the_cpu_alone_and_in_a_batch(roots, name):
    from stages.decoder.decoder import load_decoder

    folder = roots["cpu"] / f"data/decoder/kmeans-{name}"
    cpu, gpu = load_decoder(folder, CPU), load_decoder(folder, GPU)
    codes = np.random.default_rng(0).integers(0, cpu.num_codes, (6, cpu.num_patches))
    expected, made = (one.decode(codes, torch.Generator().manual_seed(0), 4) for one in (cpu, gpu))
    assert np.abs(expected.astype(int) - made).max() <= 2
    alone = gpu.decode(codes[:1], torch.Generator().manual_seed(0), 1)
    assert np.abs(alone.astype(int) - made[:1]).max() <= 2


def section() -> Kmeans:
    """32 codes in six iterations from random vectors."""
    base = load("codebook.kmeans", Kmeans, toys.ROOT / "params.yaml").model_dump()
    return Kmeans(**{**base, "num_codes": 32, "iterations": 6, "init": "random"})


def test_faiss_finds_on_a_gpu_what_it_finds_on_the_cpu():
    import faiss

    assert faiss.get_num_gpus() > 0
    rows = mixture(20_000, 24, 64)
    cpu, gpu = (error_of(rows, cluster_by_faiss(rows, section(), device)[0], CPU) for device in (CPU, GPU))
    assert gpu == pytest.approx(cpu, rel=0.01)


def test_flash_kmeans_finds_what_lloyds_algorithm_finds_from_the_same_start():
    pytest.importorskip("flash_kmeans")
    from stages.codebook.initial_vectors import initial_vectors

    rows = mixture(20_000, 64, 64)
    found, progress = cluster_by_flash(rows, section(), GPU)
    vectors, points = torch.from_numpy(initial_vectors(rows, section(), GPU)), torch.from_numpy(rows)
    for _ in range(6):
        codes = nearest(points, vectors)
        counts = torch.bincount(codes, minlength=32)
        vectors = torch.zeros_like(vectors).index_add_(0, codes, points) / counts.clamp(min=1)[:, None]
    error = error_of(rows, found, CPU)
    assert error == pytest.approx(error_of(rows, vectors, CPU), rel=0.002)
    assert progress.last()["objective"] == pytest.approx(error * len(rows), rel=0.002)
