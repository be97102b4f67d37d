"""Every kind of tokenizer goes the whole line, on the toy: codes, decoder, generators, samples, scores, studies.

Run: uv run pytest -m slow tests/test_kinds.py
"""

import json
import shutil

import pytest
import toy as toys

AFTER = ("tokens", "anatomy", "decoder", "ar", "masked", "samples-ar", "samples-masked", "stability", "evaluate")


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
