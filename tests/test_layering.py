"""Imports run one way, and dvc.yaml tells the truth about them.

Run: uv run pytest tests/test_layering.py
"""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
STAGES = {name: stage for name, stage in PIPELINE["stages"].items()}
CHOICES = ("pretrained", "tokenizers", "decoders", "generators", "machine")  # sections of params.yaml that are no stage
LISTS = {value.strip("${}") for stage in STAGES.values() for value in stage.get("matrix", {}).values()}
PACKAGES = sorted(
    path.name for path in (ROOT / "stages").iterdir() if path.is_dir() and path.name not in ("core", "__pycache__")
)


def imported_modules(path: Path) -> set[str]:
    """First-party modules named by import statements anywhere in a file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ("stages", "pipeline")}


def files_of(module: str) -> set[Path]:
    """The file of a module and the non-empty __init__.py of the packages around it."""
    parts = module.split(".")
    inits = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    own = ROOT.joinpath(*parts).with_suffix(".py")
    return {path for path in [*inits, own] if path.is_file() and path.read_text().strip()}


def transitive_files(module: str) -> set[str]:
    """Every first-party file that running the module may import."""
    seen: set[Path] = set()
    todo = files_of(module)
    while todo:
        path = todo.pop()
        seen.add(path)
        todo |= {file for name in imported_modules(path) for file in files_of(name)} - seen
    return {path.relative_to(ROOT).as_posix() for path in seen}


def modules_of(stage: dict) -> set[str]:
    """What `python -m` runs: one module, or one for each tokenizer where the name depends on it."""
    module = re.match(r"python -m (\S+)", stage["cmd"])[1]
    return {module.replace("${item.tokenizer}", name) for name in PARAMS["tokenizers"]}


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_python_deps_are_the_files_its_command_imports(name):
    stage = STAGES[name]
    listed = {dep for dep in stage["deps"] if dep.endswith(".py")}
    expected = set().union(*map(transitive_files, modules_of(stage)))
    assert listed == expected, "deps to paste:\n" + "\n".join(f"      - {path}" for path in sorted(expected))


def test_stage_names_folders_and_params_sections_agree():
    assert sorted(STAGES) == PACKAGES
    sections = {name for name in PARAMS if name not in CHOICES}
    read = {name: [one for one in stage.get("params", []) if one not in LISTS] for name, stage in STAGES.items()}
    assert sections == {name for name, entries in read.items() if entries}
    for name, entries in read.items():
        used = {entry.split(".")[0] for entry in entries}
        assert used <= {name}, f"{name} reads foreign params {used}"


def test_core_imports_no_stage_and_nobody_imports_the_pipeline():
    for path in (ROOT / "stages").rglob("*.py"):
        for module in imported_modules(path):
            assert not module.startswith("pipeline"), f"{path} imports {module}"
            if path.parent.name == "core":
                assert module.startswith("stages.core") or module == "stages", f"{path} imports {module}"


def upstream_of(name: str) -> set[str]:
    """The stages whose outputs a stage depends on, directly or not, by name without matrix member."""
    deps = [re.sub(r"\$\{item\.\w+\}", "x", dep) for dep in STAGES[name]["deps"]]
    direct = {
        other
        for other, stage in STAGES.items()
        for out in outputs_of(stage)
        for dep in deps
        if other != name and (dep == out or out.startswith(dep + "/") or dep.startswith(out + "/"))
    }
    return direct | {far for near in direct for far in upstream_of(near)}


def outputs_of(stage: dict) -> list[str]:
    outs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    names = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    return [re.sub(r"\$\{item\.\w+\}", "x", name) for name in names]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_core_itself_and_upstream(package):
    # The Python API joins a generator with a decoder, which no stage does: it is imported by users alone.
    allowed = {package, "core", *upstream_of(package)}
    for path in (ROOT / "stages" / package).glob("*.py"):
        if path.relative_to(ROOT).as_posix() == "stages/generator/api.py":
            continue
        used = {module.split(".")[1] for module in imported_modules(path) if module.count(".")}
        assert used <= allowed, f"{path.name} imports {used - allowed}, which is not upstream of {package}"


def test_only_commands_are_run_and_nobody_imports_them():
    verbs = set().union(*map(modules_of, STAGES.values()))
    for path in (ROOT / "stages").glob("*/*.py"):  # but stages/check.py, which has every schema
        runtime = [line for line in path.read_text().splitlines() if re.match(r"\s*(from|import) stages", line)]
        typing_only = "TYPE_CHECKING" in path.read_text()
        for module in imported_modules(path) & verbs:
            assert typing_only and all(line.startswith("    ") for line in runtime if module in line), (
                f"{path} imports {module}"
            )


def test_every_command_module_and_test_is_under_250_lines():
    files = [
        path for folder in ("stages", "pipeline", "benchmarks", "tests") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    assert not {path.name: n for path in files if (n := len(path.read_text().splitlines())) >= 250}


def test_the_pipeline_imports_no_stage_and_three_of_its_files_touch_dvcs_objects():
    touching = set()
    for path in (ROOT / "pipeline").glob("*.py"):
        assert not [name for name in imported_modules(path) if name.startswith("stages")], path
        touching |= {path.name for line in path.read_text().splitlines() if re.match(r"\s+(from|import) dvc\b", line)}
        assert not re.search(r"^(from|import) dvc\b", path.read_text(), re.M), f"{path}: a second before --help"
    assert touching == {"graph.py", "outlook.py", "repair.py", "repro.py"}  # repro.py: DVC's own command line
