"""The documents against the repository: links, anchors, commands, parameter names, recipes.

Run: uv run pytest tests/test_readme.py
"""

import ast
import contextlib
import copy
import fnmatch
import importlib.util
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import toy as toys

from pipeline.cli import parser
from pipeline.edit import read_arguments
from pipeline.errors import PipelineError
from pipeline.params_file import lay_over, parse
from stages.check import errors_in

ROOT = toys.ROOT
GUIDES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "findings/README.md")]
GUIDES += sorted((ROOT / "docs").glob("*.md"))
LOG = sorted((ROOT / "docs/log").glob("*.md"))
CURRENT = [path for path in GUIDES if path.name != "CHANGELOG.md"]  # which names what is no more
INVENTED = ("brightness", "gray", "uniform", "class_counts", "kmeans_1024")  # names of the guides' examples
YAML_BLOCK, SET = re.compile(r"^```yaml\n(.*?)^```", re.S | re.M), re.compile(r"semtok set ([^\n#&]+)")
RECIPES = YAML_BLOCK.findall((ROOT / "docs/real_data.md").read_text())
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


text_of = cache(Path.read_text)


@cache
def yaml_of(path: Path) -> dict:
    return toys.YAML(typ="safe").load(text_of(path))


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)


@cache
def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text_of(path)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def code_of(path: Path) -> str:
    """Everything in a document that stands in backticks or in a fenced block, one piece per line."""
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", text_of(path), re.S | re.M)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", without_code(text_of(path)))])


def addresses() -> list[str]:
    """All stages as DVC calls them."""
    studies = yaml_of(ROOT / "studies/dvc.yaml")["stages"]
    return [f"studies/dvc.yaml:{name}" if name in studies else name for name in toys.STAGES]


def test_the_readme_has_at_most_nine_thousand_bytes():
    assert (ROOT / "README.md").stat().st_size <= 9000


@each([*GUIDES, *LOG])
def test_every_relative_link_and_anchor_resolves(path):
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", without_code(text_of(path))):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors_of(found), f"{target}: no such heading"


def test_the_readme_names_every_folder_of_stages_and_every_guide():
    readme = text_of(ROOT / "README.md")
    rooms = [path.parent.name for path in (ROOT / "stages").glob("*/__init__.py")]
    assert [room for room in rooms if f"stages/{room}/" not in readme] == []
    assert [name_of(path) for path in GUIDES[1:3] + GUIDES[4:] if f"({name_of(path)})" not in readme] == []


@each(CURRENT)
def test_every_module_that_a_document_names_exists(path):
    for module in set(re.findall(r"\bstages(?:\.\w+)+", code_of(path))):
        name, _, attribute = module.rpartition(".")
        file, package = ROOT / f"{module.replace('.', '/')}.py", ROOT / module.replace(".", "/")
        owner = ROOT / f"{name.replace('.', '/')}.py"
        inside = owner.exists() and re.search(rf"^(class|def) {attribute}\b|^{attribute}\b.*=", owner.read_text(), re.M)
        assert file.exists() or package.is_dir() or inside or attribute in INVENTED, module


@each(CURRENT)
def test_every_script_folder_and_file_that_a_document_names_exists(path):
    pattern = r"\b(?:benchmarks|tests|presets|stages|docs|pipeline)/[\w/.-]+\.(?:py|yaml|md|tsv|png|html)\b"
    named = {name for name in re.findall(pattern, code_of(path)) if Path(name).stem not in INVENTED}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@each(CURRENT)
def test_every_command_of_semtok_and_every_stage_that_a_document_runs_exists(path):
    [verbs] = [action for action in parser()._actions if action.dest == "command"]
    code = re.sub(r"\s#.*", "", code_of(path))
    commands = re.findall(r"(?:^|uv run )semtok ([\w-]+)([^\n]*)", code, re.M)
    assert {verb for verb, _ in commands} <= set(verbs.choices)
    by_semtok, by_dvc = [words for verb, words in commands if verb == "run"], re.findall(r"dvc repro([^\n&;]*)", code)
    for known, targets in ((toys.STAGES, by_semtok), (addresses(), by_dvc)):
        for target in (word.strip("'") for words in targets for word in words.split()):
            if re.fullmatch(r"(studies/dvc\.yaml:)?[a-z][\w@*-]*", target) and target not in INVENTED:
                assert fnmatch.filter(known, target.partition("@")[0]), target


def test_every_command_of_semtok_is_explained_in_a_guide_and_has_a_word_of_help():
    [verbs] = [action for action in parser()._actions if action.dest == "command"]
    guides = "\n".join(text_of(path) for path in sorted((ROOT / "docs").glob("*.md")))
    explained = set(re.findall(r"^uv run semtok ([\w-]+) .*# .+$", guides, re.M))
    assert explained == set(verbs.choices) and len(verbs._choices_actions) == len(verbs.choices)


@cache
def parsed_params() -> dict:
    return parse(toys.TEXT, "params.yaml")


def params_after(arguments: list[str], folder: Path) -> dict:
    """All params after `semtok set` with these arguments, accepted by `stages.check`; files they name exist."""
    with contextlib.chdir(ROOT):
        params = copy.deepcopy(parsed_params())
        lay_over(params, read_arguments(arguments, params))
        for key in [
            key for key in ("folder", "val_folder") if params["data"][key].startswith(("/path/to/", "photographs/"))
        ]:
            (folder / key).mkdir()
            params["data"][key] = str(folder / key)
        for name in params["weights"]:  # made by presets/photos.sh, or a user's own
            (file := folder / f"{name}.safetensors").touch()
            params["weights"][name] = str(file)
        (folder / "params.yaml").write_text(json.dumps(params))  # JSON is YAML
        assert errors_in(folder / "params.yaml") == [], arguments
    return params


@cache
def known_keys() -> set[str]:
    """Every dotted key of params.yaml and of the presets, also without its first sections."""

    def keys(node: object, prefix: str = "") -> set[str]:
        if not isinstance(node, dict):
            return set()
        return {f"{prefix}{k}" for k in node} | {one for k, v in node.items() for one in keys(v, f"{prefix}{k}.")}

    files = [*ROOT.glob("*params*.yaml"), *ROOT.glob("studies/params.yaml"), *ROOT.glob("pretrain*.yaml"), *PRESETS]
    return set().union(*(keys(yaml_of(file)) for file in files))


@each([path for path in CURRENT if path.name != "python_api.md"])  # whose dotted names are objects
def test_every_parameter_that_a_document_names_exists(path):
    sections = {key.split(".")[0] for key in known_keys()}
    for name in re.findall(r"`([a-z_]+(?:\.[\w-]+)+)`", without_code(text_of(path))):
        parts = name.split(".")
        if parts[0] in sections and parts[1] not in ("yaml", "py", *INVENTED):
            assert name in known_keys(), name


@pytest.mark.parametrize("line", sorted({line.strip() for path in CURRENT for line in SET.findall(code_of(path))}))
def test_every_assignment_of_semtok_set_is_possible(line, tmp_path):
    [own] = [block for path in CURRENT for block in YAML_BLOCK.findall(text_of(path)) if "base:" in block]
    (tmp_path / "mine.yaml").write_text(own)  # the guide's example of a file of the user's
    words = [word for word in shlex.split(line) if word != "@FILE"]
    params_after([f"@{tmp_path}/mine.yaml" if word == "@mine.yaml" else word for word in words], tmp_path)


def load_recipe(recipe: str, folder: Path) -> dict:
    """All params under a recipe of docs/real_data.md."""
    (folder / "recipe.yaml").write_text(recipe)
    return params_after([f"@{folder}/recipe.yaml"], folder)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> list[dict]:
    """All params under the recipes of docs/real_data.md: a folder, shards, ImageNet."""
    return [load_recipe(recipe, tmp_path_factory.mktemp("recipe")) for recipe in RECIPES]


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_a_recipe_laid_over_params_yaml_is_accepted_and_fits_together(number, recipes):
    params = recipes[number]
    encoder, book, decoder = params["encoder"], params["codebook"]["kmeans"], params["decoder"]["onestep"]
    embedded = ROOT / "weights" / encoder["name"] / "config.json"
    shape = json.loads(embedded.read_text())["shape"] if embedded.exists() else {}
    patch_px = shape.get("patch_px") or int(re.search(r"patch(\d+)", encoder["name"])[1])
    depth = shape.get("depth") or {"small": 12, "base": 12, "large": 24}[encoder["name"].split("_")[1]]
    assert encoder["img_px"] % patch_px == 0
    assert encoder["img_px"] // patch_px * 2 ** (len(decoder["widths"]) - 1) == params["data"]["img_px"]
    blocks = [params["probe"]["block"] % depth, params["features"]["block"], *decoder["perceptual_blocks"]]
    assert all(0 <= block < depth for block in blocks)
    assert not book["max_vectors"] or book["num_codes"] <= book["max_vectors"]
    for optim in (decoder["optim"], params["generator"]["ar"], params["generator"]["masked"]):
        assert optim["precision"] in ("fp32", "bf16") and 0 < optim["warmup_share"] < 1


def test_the_folder_recipe_suits_even_a_flat_folder_and_the_other_a_thousand_classes(recipes):
    folder, _, imagenet = recipes
    per_class = folder["samples"]["draws"]["per_class"]
    assert folder["generation"]["kid_subset_size"] <= per_class, "flat: samples in all"
    assert folder["encoder"]["name"] == "digits", "nothing to download"
    expected = 732 / 1_281_167 * imagenet["probe"]["max_images"]  # of ImageNet's smallest class, in the subset
    assert imagenet["probe"]["shots"] < expected - 4 * expected**0.5
    assert imagenet["samples"]["draws"]["per_class"] * 1000 == imagenet["reference"]["max_images"] == 50_000


@pytest.mark.parametrize("recipe", ["probe: {color: 1}", "decoder: {onestep: {optim: {lr: 1.0}}}", "color: {}",
                                    "tokens: {augment: {blur: 1.0}}", "samples: {ar: {steps: 3}}"])  # fmt: skip
def test_an_unknown_key_in_a_recipe_is_noticed(recipe, tmp_path):
    with pytest.raises((AssertionError, PipelineError)):
        load_recipe(recipe, tmp_path)


@each(CURRENT)
def test_python_blocks_parse_and_name_what_semtok_has(path):
    offered = text_of(ROOT / "semtok.py")
    for block in re.findall(r"^```python\n(.*?)^```", text_of(path), re.S | re.M):
        ast.parse(block)
    for name in set(re.findall(r"\bsemtok\.(load_\w+)", code_of(path))):
        assert name in offered, name
    for module, name in re.findall(r"^from (stages\S+) import (\w+)", code_of(path), re.M):
        source = Path(importlib.util.find_spec(module).origin).read_text()
        assert re.search(rf"^def {name}\b", source, re.M), f"{module}.{name}"


def test_the_logs_index_names_every_entry_once_and_entries_stand_in_order_of_date():
    linked = re.findall(r"\]\((\w+\.md)#([^)]+)\)", text_of(ROOT / "docs/log/README.md"))
    entries = [(path, re.findall(r"^## (.+)$", text_of(path), re.M)) for path in LOG if path.name != "README.md"]
    assert len(linked) == len(set(linked)) >= 99 and {name for name, _ in linked} == {path.name for path, _ in entries}
    assert len(linked) == sum(len(headings) for _, headings in entries)
    for dates in ([heading[:10] for heading in headings] for _, headings in entries):
        assert dates == sorted(dates) and all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
