"""`semtok set @FILE` lays a file of values over params.yaml; the presets that are shipped are possible.

Run: uv run pytest tests/test_preset.py
"""

import pytest
import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


@pytest.fixture
def project(tmp_path_factory, tmp_path):
    return tiny.project(tmp_path_factory, tmp_path / "project")


def test_a_file_is_laid_over_with_every_value_as_it_is_written_there_and_later_arguments_win(project):
    (project / "a preset.yaml").write_text(
        "# them\nfirst: {seed: 1, rate: 2.5e-3}  # a comment\nnames:\n  - q\n  - p\nsecond: {p: {colour: green}}\n"
    )
    tiny.semtok(project, "set", "@a preset.yaml", "first.seed=2")
    expected = tiny.PARAMS.replace("{seed: 0, rate: 1.0e-3}", "{seed: 2, rate: 2.5e-3}").replace("[p, q]", "[q, p]")
    assert (project / "params.yaml").read_text() == expected.replace("colour: red", "colour: green")
    assert "nothing changed" in tiny.semtok(project, "set", "@a preset.yaml", "first.seed=2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "@preset.yaml: cannot be read: "),
        ("first: [", "preset.yaml: not valid YAML"),
        ("", "@preset.yaml: holds no sections with values"),
        ("7", "@preset.yaml: holds no sections with values"),
        ("first: {sead: 1}", "first.sead: params.yaml has no such key"),
        ("first: 3", "first is a section: set first.seed"),
    ],
)
def test_a_file_that_cannot_be_laid_over_changes_nothing(project, text, said):
    if text is not None:
        (project / "preset.yaml").write_text(text)
    assert said in tiny.semtok(project, "set", "@preset.yaml", status=2)
    assert (project / "params.yaml").read_text() == tiny.PARAMS


PRESETS = sorted((tiny.ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_possible_and_changes_something(preset, project):
    printed = tiny.semtok(tiny.with_real_params(project), "set", f"@{preset}")
    assert " -> " in printed and tiny.stages_in(printed) == ["one"]


def test_presets_can_be_laid_over_one_another_and_take_over_values_in_themselves(project):
    tiny.with_real_params(project)
    printed = tiny.semtok(project, "set", *(f"@{tiny.ROOT}/presets/{name}.yaml" for name in ("scenes", "scenes128")))
    for said in ("data.source  digits -> scenes", "onestep.optim.total_steps  280 -> 2200"):
        assert said in printed
    assert "diffusion.optim.batch_size  16 -> 64" in printed and "diffusion.optim.total_steps  215 -> 1450" in printed


def test_every_rung_of_the_ladder_differs_from_diffusion_in_one_value():
    from ruamel.yaml import YAML

    from pipeline.edit import leaf_nodes, load

    text = (tiny.ROOT / "params.yaml").read_text()
    decoders = load(text)["decoder"]
    ladder = YAML(typ="safe").load(tiny.ROOT / "presets/ladder.yaml")["decoders"]
    rungs = [name for name in ladder if name.startswith("diffusion_")]
    assert {*rungs} == {name for name in decoders if name.startswith("diffusion_")}
    leaves = [key.removeprefix("decoder.diffusion.") for key, _ in leaf_nodes(text) if "decoder.diffusion." in key]
    assert len(leaves) > 30
    for name in rungs:
        differing = [key for key in leaves if value(decoders["diffusion"], key) != value(decoders[name], key)]
        assert len(differing) == 1, (name, differing)


def test_no_two_sections_are_one_object_for_a_change_of_one_by_dvc_exp_run_would_be_lost():
    from pipeline.edit import load

    sections = [load((tiny.ROOT / "params.yaml").read_text())]
    for section in sections:
        sections += [value for value in section.values() if isinstance(value, dict)]
    assert len({*map(id, sections)}) == len(sections) > 100


def value(section: dict, key: str):
    """What stands under a dotted key."""
    for part in key.split("."):
        section = section[part]
    return section
