"""Every kind of tokenizer and of decoder goes the whole line, on the toy: codes, generators, samples, scores, studies.

Run: uv run pytest -m slow tests/test_kinds.py
"""

import json
import shutil

import pytest
import toy as toys

AFTER = ("tokens", "anatomy", "judge", "decoder", "ar", "masked", "samples-ar", "samples-masked", "stability",
         "reference", "evaluate", "sweep", "resolution")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cluster", "vqkd", "vqgan", "fsq", "kmeans_random"])
def test_a_tokenizer_of_any_kind_goes_the_whole_line(name, toy, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root, {"codebook": {"kmeans_random": toys.CHANGES["codebook"]["kmeans"]}})
    fit = toys.COMMANDS["codebook"].replace("--name kmeans ", f"--name {name} ")
    for line in (fit, *(toys.COMMANDS[command] for command in AFTER)):
        for folder in ("codebook/", "tokens/", "samples/", "anatomy/", "stability/"):
            line = line.replace(f"{folder}kmeans", f"{folder}{name}")
        toys.run_line(line.replace("kmeans-", f"{name}-"), root)
    scores = json.loads((root / f"reports/evaluate/{name}-onestep/metrics.json").read_text())
    assert scores["tokenizer"]["name"] == name and scores["tokenizer"]["num_codes"] == 8
    assert scores["ar"]["likelihood"]["val_perplexity"] >= 1 and 0 <= scores["masked"]["agreement"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["kmeans", "fsq", "vqkd", "vqgan_4x4"])
@pytest.mark.parametrize("name", ["onestep", "render_ar", "diffusion"])
def test_a_decoder_of_any_kind_paints_the_codes_of_any_tokenizer(tokenizer, name, toy, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    coarse = {**toys.CHANGES["codebook"]["vqgan"], "widths": [16, 16, 8, 8]}
    toys.write_params(root, {"tokenizers": ["vqgan", tokenizer], "codebook": {"vqgan_4x4": coarse}})
    for kind in ("vqgan", tokenizer):
        toys.run_line(toys.COMMANDS["codebook"].replace("kmeans", kind), root)
    for command in ("palette", "decoder", "judge", "sweep"):
        toys.run_line(toys.COMMANDS[command].replace("onestep", name).replace("kmeans", tokenizer), root)
    swept = json.loads((root / f"reports/sweep/{tokenizer}-{name}/metrics.json").read_text())
    assert 3 < swept["steps_3" if name == "diffusion" else "once"]["psnr_db"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["render_ar", "render_masked", "diffusion"])
def test_a_decoder_of_any_kind_goes_the_whole_line(name, toy, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root, {"tokenizers": ["kmeans", "vqgan"]})
    toys.run_line(toys.COMMANDS["codebook"].replace("kmeans", "vqgan"), root)
    generators = ("ar", "masked", "samples-ar", "samples-masked")
    for command in ("palette", "decoder", "judge", "reference", *generators, "evaluate", "sweep"):
        toys.run_line(toys.COMMANDS[command].replace("onestep", name), root)
    scores = json.loads((root / f"reports/evaluate/kmeans-{name}/metrics.json").read_text())
    assert scores["tokenizer"]["name"] == "kmeans" and 3 < scores["reconstruction"]["psnr_db"] < 60
    assert all(0 <= scores[generator]["agreement"] <= 1 for generator in ("ar", "masked"))
    swept = json.loads((root / f"reports/sweep/kmeans-{name}/metrics.json").read_text())
    own = {"render_ar": "once", "render_masked": "steps_8", "diffusion": "steps_3"}[name]
    assert swept[own]["psnr_db"] == pytest.approx(scores["reconstruction"]["psnr_db"], abs=1)
    toys.write_params(root, {"machine": {"infer_batch_size": 5}})
    toys.run_line(toys.COMMANDS["evaluate"].replace("onestep", name), root)
    after = json.loads((root / f"reports/evaluate/kmeans-{name}/metrics.json").read_text())
    for figure in ("psnr_db", "ssim"):
        assert after["reconstruction"][figure] == pytest.approx(scores["reconstruction"][figure], abs=1e-3)
