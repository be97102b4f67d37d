"""The README's recipes against the stages' own schemas, and its commands, as written, on a fresh clone.

Run: uv run pytest tests/test_readme.py     (with -m slow: the whole default run)
"""

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import toy as toys

from stages.check import SCHEMAS, errors_in
from stages.codebook.fit import load_params as load_tokenizer
from stages.core.params import load
from stages.decoder.train import load_params as load_decoder

README, PARAMS = (toys.ROOT / "README.md").read_text(), toys.ROOT / "params.yaml"
RECIPES = re.findall(r"```yaml\n(.*?)```", README, re.S)


def test_the_readme_names_every_stage_and_every_file_it_links_exists():
    for name in toys.YAML(typ="safe").load(toys.ROOT / "dvc.yaml")["stages"]:
        assert f"stages/{name}/" in README, name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (toys.ROOT / link).exists(), link


def test_every_command_of_semtok_has_a_line_in_the_readme_and_a_word_of_help():
    from pipeline.cli import parser

    [verbs] = [action for action in parser()._actions if action.dest == "verb"]
    watching = README[README.index("## Watch it") :]
    told = re.findall(r"^uv run semtok (\w+) .*# .+$", watching, re.M)
    assert sorted(told) == sorted(verbs.choices) and len(verbs._choices_actions) == len(told)


def lay_over(base: dict, layer: dict, key: str = "") -> dict:
    """`base` with the values of `layer`; a key that `base` lacks is an error."""
    assert set(layer) <= set(base), f"{key}: unknown {set(layer) - set(base)}"
    laid = {k: lay_over(base[k], v, f"{key}.{k}") if isinstance(v, dict) else v for k, v in layer.items()}
    return {**base, **laid}


def load_all(recipe: str, tmp_path: Path) -> dict[str, Any]:
    """Every section of params.yaml under a recipe, checked by the stages; the images' folder is one that exists."""
    params = lay_over(toys.YAML(typ="safe").load(PARAMS), toys.YAML(typ="safe").load(recipe))
    if params["data"]["folder"]:
        params["data"]["folder"] = str(tmp_path)
    with open(tmp_path / "params.yaml", "w") as file:
        toys.YAML(typ="safe").dump(params, file)
    with contextlib.chdir(toys.ROOT):
        assert errors_in(tmp_path / "params.yaml") == []
        loaded = {name: load(name, schema, tmp_path / "params.yaml") for name, schema in SCHEMAS.items()}
        book, decoder = (
            load_tokenizer("kmeans", tmp_path / "params.yaml"),
            load_decoder("onestep", tmp_path / "params.yaml"),
        )
        return {**loaded, "codebook": book[1], "decoder": decoder[1]}


@pytest.mark.parametrize("recipe", RECIPES, ids=["folder", "imagenet"])
def test_a_recipe_laid_over_params_yaml_is_accepted_by_every_stage_and_fits_together(recipe, tmp_path):
    params = load_all(recipe, tmp_path)
    encoder, book, decoder = params["encoder"], params["codebook"], params["decoder"]
    own = params.get(f"pretrain.{encoder.name}")
    patch_px = own.patch_px if own else int(re.search(r"patch(\d+)", encoder.name)[1])
    depth = own.depth if own else {"small": 12, "base": 12, "large": 24}[encoder.name.split("_")[1]]
    assert encoder.img_px % patch_px == 0
    assert encoder.img_px // patch_px * 2 ** (len(decoder.widths) - 1) == params["data"].img_px
    blocks = [params["probe"].block % depth, params["features"].block, *decoder.perceptual_blocks]
    assert all(0 <= block < depth for block in blocks)
    assert not book.max_vectors or book.num_codes <= book.max_vectors
    for optim in (decoder.optim, params["generator.ar"], params["generator.masked"]):
        assert optim.precision in ("fp32", "bf16") and optim.warmup_steps < optim.total_steps
        assert optim.eval_every <= optim.total_steps


def test_the_folder_recipe_suits_even_a_flat_folder_and_the_other_a_thousand_classes(tmp_path):
    folder, imagenet = (load_all(recipe, tmp_path) for recipe in RECIPES)
    assert folder["evaluate"].kid_subset_size <= folder["samples.draws"].per_class, "flat: samples in all"
    assert folder["encoder"].name == "digits", "nothing to download"
    expected = 732 / 1_281_167 * imagenet["probe"].max_images  # of ImageNet's smallest class, in the choice
    assert imagenet["probe"].few_labels < expected - 4 * expected**0.5
    assert imagenet["samples.draws"].per_class * 1000 == imagenet["reference"].max_images == 50_000


@pytest.mark.parametrize("recipe", ["probe: {colour: 1}", "decoder: {onestep: {optim: {lr: 1.0}}}", "colour: {}",
                                    "tokens: {augment: {blur: 1.0}}", "samples: {ar: {steps: 3}}"])  # fmt: skip
def test_an_unknown_key_in_a_recipe_is_noticed(recipe, tmp_path):
    with pytest.raises(AssertionError, match="unknown"):
        load_all(recipe, tmp_path)


@pytest.mark.slow
def test_the_first_command_on_a_fresh_clone_ends_with_the_report_and_then_does_nothing(tmp_path):
    subprocess.run(["git", "clone", "-q", str(toys.ROOT), "clone"], cwd=tmp_path, check=True)
    clone, env = tmp_path / "clone", {**os.environ, "DVC_NO_ANALYTICS": "1"}
    env.pop("VIRTUAL_ENV", None)
    command = re.search(r"pip install uv && (uv run dvc repro)", README)[1].split()
    subprocess.run(command, cwd=clone, env=env, check=True)
    assert (clone / "reports/index.html").stat().st_size > 100_000
    again = subprocess.run(command, cwd=clone, env=env, check=True, capture_output=True, text=True)
    assert "Data and pipelines are up to date" in again.stdout
