"""Every kind of tokenizer and of decoder runs the whole pipeline on the toy: codes, generators, samples, studies.

Run: uv run pytest -m slow tests/test_kinds.py
"""

import json
import shutil
from pathlib import Path

import pytest
import toy as toys

GENERATORS = [f"{stage}@kmeans-{name}" for stage in ("generator", "samples") for name in ("ar", "masked")]
AFTER = ("tokens", "code_analysis", "classifier", "pixel_tokenizer", "decoder", *GENERATORS, "noise_robustness",
         "reference", "reconstruction", "generation", "decoding_steps", "resolution_transfer")  # fmt: skip
TWO = {"alternating_generators": []}  # generators: `ar` and `masked` alone, whose samples are evaluated


def metrics_of(root: Path, folder: str) -> dict:
    return json.loads((root / "reports" / folder / "metrics.json").read_text())


def run(commands: tuple[str, ...], root: Path, tokenizer: str = "kmeans", decoder: str = "onestep") -> None:
    """The commands for another tokenizer and decoder."""
    for command in commands:
        toys.run_line(toys.COMMANDS[command].replace("kmeans", tokenizer).replace("onestep", decoder), root)


@pytest.fixture
def root(toy, tmp_path) -> Path:
    return shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cluster", "vqkd", "vqgan", "fsq", "untrained"])
def test_a_tokenizer_of_any_kind_runs_the_whole_pipeline(name, root):
    kmeans = toys.YAML(typ="safe").load(root / "params.yaml")["codebook"]["kmeans"]
    toys.write_params(root, {**TWO, "codebook": {"untrained": {**kmeans, "encoder": "random"}}})
    run(("tokenizer_inputs", "codebook", *AFTER), root, name)
    tokenizer = metrics_of(root, f"reconstruction/{name}-onestep")["tokenizer"]
    assert (tokenizer["name"], tokenizer["num_codes"]) == (name, 8)
    generation = metrics_of(root, f"generation/{name}-onestep")
    assert generation["ar"]["likelihood"]["val_perplexity"] >= 1 and 0 <= generation["masked"]["class_accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["kmeans", "fsq", "vqkd", "coarse"])
@pytest.mark.parametrize("decoder", ["onestep", "render_ar", "diffusion"])
def test_a_decoder_of_any_kind_decodes_the_codes_of_any_tokenizer(tokenizer, decoder, root):
    vqgan = toys.YAML(typ="safe").load(root / "params.yaml")["codebook"]["vqgan"]
    coarse = {**vqgan, "widths": [16, 16, 8, 8]}
    toys.write_params(root, {"tokenizers": ["vqgan", tokenizer], "codebook": {"coarse": coarse}})
    for name in ("vqgan", tokenizer):
        run(("tokenizer_inputs", "codebook"), root, name)
    run(("pixel_tokenizer", "decoder", "classifier", "decoding_steps"), root, tokenizer, decoder)
    found = metrics_of(root, f"decoding_steps/{tokenizer}-{decoder}")
    assert 3 < found["steps_3" if decoder == "diffusion" else "once"]["psnr_db"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["render_ar", "render_masked", "diffusion"])
def test_a_decoder_of_any_kind_runs_the_whole_pipeline(decoder, root):
    toys.write_params(root, {**TWO, "tokenizers": ["kmeans", "vqgan"]})
    run(("tokenizer_inputs", "codebook"), root, "vqgan")
    scores = ("reconstruction", "generation", "decoding_steps")
    run(("pixel_tokenizer", "decoder", "classifier", "reference", *GENERATORS, *scores), root, decoder=decoder)
    found = metrics_of(root, f"reconstruction/kmeans-{decoder}")
    assert found["tokenizer"]["name"] == "kmeans" and 3 < found["reconstruction"]["psnr_db"] < 60
    generation = metrics_of(root, f"generation/kmeans-{decoder}")
    assert all(0 <= generation[generator]["class_accuracy"] <= 1 for generator in ("ar", "masked"))
    own = {"render_ar": "once", "render_masked": "steps_8", "diffusion": "steps_3"}[decoder]
    by_steps = metrics_of(root, f"decoding_steps/kmeans-{decoder}")
    assert by_steps[own]["psnr_db"] == pytest.approx(found["reconstruction"]["psnr_db"], abs=1)
    toys.write_params(root, {**TWO, "machine": {"infer_batch_size": 5}})
    run(("reconstruction",), root, decoder=decoder)
    after = metrics_of(root, f"reconstruction/kmeans-{decoder}")
    for name in ("psnr_db", "ssim"):
        assert after["reconstruction"][name] == pytest.approx(found["reconstruction"][name], abs=1e-3)
