"""`semtok seeds`: trainings that differ by their seeds alone, which rerun nothing that exists.

Run: uv run pytest tests/test_seeds.py        (what `dvc repro` then runs: tests/test_dvc.py -m slow)
"""

from typing import Any

import pytest
import toy as toys
from ruamel.yaml import YAML

from pipeline.cli import parser
from pipeline.errors import PipelineError
from pipeline.params_file import lay_over, parse
from pipeline.seeds import BESIDE, LISTS, replicates
from stages import names
from stages.check import errors_in

STAGES, TEXT = toys.STAGES, toys.TEXT


def params_with(section: str = "", *seeds: int, **lists: list[str]) -> dict[str, Any]:
    """The repository's params with these lists, and with replicates of a section."""
    params = parse(TEXT, "params.yaml")
    params |= lists
    if section:
        lay_over(params, replicates(params, section, [*seeds]))
    return params


def read_by(params: dict[str, Any]) -> dict[str, list[Any]]:
    """{stage@member: the values of the params that it depends on}, as DVC compares them."""
    lists = {given: names.value_at(params, given.strip("${}")) for given in toys.LISTS}
    return {
        f"{name}@{'-'.join(item.values())}": [
            names.value_at(params, toys.fill(key, item)) for key in stage.get("params", []) if isinstance(key, str)
        ]
        for name, stage in STAGES.items()
        for item in toys.items(stage, lists)
    }


@pytest.mark.parametrize(
    ("section", "reruns"),
    [
        ("codebook.kmeans", {"code", "pixel_tokenizer", "report"}),  # the second writes the same bytes: test_dvc
        ("decoder.onestep", {"code", "report"}),
        ("decoder.render_ar", {"code", "pixel_tokenizer", "report"}),
        ("generator.ar", {"code", "captions", "generation", "caption_accuracy", "report"}),
        ("generator.addp", {"code", "generation", "report"}),
    ],
)
def test_a_seed_adds_members_and_changes_what_no_training_no_tokens_and_no_samples_read(section, reruns):
    lists = {"decoders": ["onestep", "render_ar"], "alternating_generators": ["addp"], "caption_checkers": ["scenes"]}
    before, after = (read_by(params_with(*given, **lists)) for given in ((), (section, 1, 2)))
    changed = {member.partition("@")[0] for member, values in before.items() if after[member] != values}
    assert changed == reruns and before.keys() < after.keys()
    assert all("_s1" in member or "_s2" in member for member in after.keys() - before.keys())


def test_a_replicate_has_other_seeds_and_all_else_of_its_section(tmp_path):
    params = params_with("decoder.onestep", 3)
    expected = parse(TEXT, "params.yaml")["decoder"]["onestep"]
    expected["optim"]["seed"] = 3
    assert params["decoder"]["onestep_s3"] == expected and params["decoders"] == ["onestep", "onestep_s3"]
    params = params_with("generator.ar", 1, 2)
    assert params["samples"]["ar_s2"] == params["samples"]["ar"] and params["generator"]["ar_s2"]["seed"] == 2
    with open(tmp_path / "params.yaml", "w") as file:
        YAML().dump(params, file)
    assert errors_in(tmp_path / "params.yaml") == []


def test_asking_again_changes_nothing():
    params = params_with("codebook.kmeans", 1)
    lay_over(params, replicates(params, "codebook.kmeans", [1, 1]))
    assert params == params_with("codebook.kmeans", 1)


@pytest.mark.parametrize(
    ("section", "seed", "message"),
    [
        ("codebook.vqgan", 1, "codebook.vqgan: expected a section in use: codebook.NAME of tokenizers"),
        ("tokens", 1, "tokens: expected a section in use"),
        ("generator.model", 1, "generator.model: expected a section in use"),
        ("codebook.kmeans", 0, "codebook.kmeans: has seed 0 already"),
        ("codebook.kmeans", 7, "codebook.kmeans_s7: exists, and is not codebook.kmeans with seed 7"),
        ("generator.ar", 7, "samples.ar_s7: exists, and is not samples.ar with seed 7"),
    ],
)
def test_what_cannot_be_a_replicate_is_refused(section, seed, message):
    params = params_with()
    params["codebook"]["kmeans_s7"] = {**params["codebook"]["kmeans"], "seed": 7, "num_codes": 3}
    params["samples"]["ar_s7"] = {**params["samples"]["ar"], "top_p": 0.5}
    with pytest.raises(PipelineError, match=message):
        replicates(params, section, [seed])


def test_every_list_of_trainings_has_seeds_and_the_sections_beside_it():
    others = {"text", "caption_checker", "recognition", "recognition_network", "weights"}
    known = {*names.OWNERS.values()} - others
    assert LISTS.keys() == known and {key for keys in LISTS.values() for key in keys} <= names.OWNERS.keys()
    assert {*names.NAMED} == {*LISTS, *(one for beside in BESIDE.values() for one in beside), *others}
    assert vars(parser().parse_args(["seeds", "codebook.kmeans", "1", "2"])) == {
        "command": "seeds", "section": "codebook.kmeans", "seeds": [1, 2],
    }  # fmt: skip
