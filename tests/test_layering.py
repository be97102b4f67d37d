"""Imports follow the data and never turn back; dvc.yaml and the code agree; files are short and start fast.

Run: uv run pytest tests/test_layering.py
"""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import toy as toys

from stages.core import code
from stages.names import read_by

ROOT = Path(__file__).parents[1]
STAGES = {name: stage.get("do", stage) for name, stage in toys.STAGES.items()}
FILES = [path for path in sorted((ROOT / "stages").rglob("*.py")) if path.stat().st_size]
ROOMS = sorted({path.relative_to(ROOT / "stages").parts[0] for path in FILES if path.parent.name != "stages"})
UPSTREAM = {  # what a room may import of others beside core: the data flows from left to right
    "data": set(),
    "encoder": {"data"},
    "features": {"data", "encoder"},
    "codebook": {"data", "encoder", "features"},
    "tokens": {"data", "codebook"},
    "decoder": {"data", "encoder", "codebook"},
    "text": {"data"},
    "generator": {"data", "encoder", "tokens", "decoder", "codebook", "text"},  # data, codebook: images to edit
    "evaluate": {"data", "encoder", "codebook", "decoder", "generator"},
    "recognition": {"data", "encoder", "codebook", "generator"},
    "report": set(),
    "studies": {"data", "encoder", "features", "codebook", "tokens", "decoder", "generator", "evaluate"},
    "use": {"artifacts", "data", "codebook", "decoder", "generator"},
    "core": set(),
}
HEAVY = {"torch", "timm", "faiss", "sklearn"}
MODULES = sorted({line.split()[0] for line in toys.COMMANDS.values()})


def imported(path: Path) -> set[str]:
    """First-party modules that a file imports."""
    return {
        name for name in code.imports_of(ast.parse(path.read_text())) if name.split(".")[0] in ("stages", "pipeline")
    }


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_core_itself_and_upstream_rooms(room):
    for path in (ROOT / "stages" / room).rglob("*.py"):
        used = {name.split(".")[1] for name in imported(path) if name.count(".")}
        assert used <= {room, "core", *UPSTREAM[room]}, path


def test_nobody_imports_the_pipeline_and_it_imports_no_stage():
    assert not [path for path in FILES if any(name.startswith("pipeline") for name in imported(path))]
    pipeline = (ROOT / "pipeline").glob("*.py")
    assert not [path for path in pipeline if any(name.startswith("stages") for name in imported(path))]


def test_no_import_cycle_not_even_for_annotations():
    edges = {path: {file for name in imported(path) for file in code.files_of(name)} - {path} for path in FILES}
    TopologicalSorter(edges).prepare()  # CycleError names the files
    assert not [path for path in FILES if "TYPE_CHECKING" in path.read_text()]


# Of libraries that take seconds to import.
SELDOM_USED = {
    "timm",
    "lpips",
    "onnx",
    "fully_shard",
    "transformers",
    "SummaryWriter",
    "wandb",
    "mlflow",
    "UPerNet",
    "open_pretrained",
}


def test_only_the_main_of_a_command_imports_inside_a_function():
    for path in FILES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name != "main":
                found = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
                found = [node for node in found if not {name.name for name in node.names} <= SELDOM_USED]
                assert not found, f"{path}:{found[0].lineno}: import inside {function.name}"


def test_nobody_imports_a_command():
    for path in FILES:
        assert not imported(path) & {module for module in MODULES if module != "stages.core.code"}, path


@pytest.mark.parametrize("folder", ["stages", "pipeline", "benchmarks", "tests"])
def test_every_file_has_at_most_250_lines(folder):
    lengths = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > 250}


def test_core_has_at_most_20_modules():
    assert len([path for path in FILES if path.parent.name == "core" and path.name != "__init__.py"]) <= 20


def test_a_stage_of_several_processes_waits_until_an_earlier_runs_work_is_removed():
    parallel = [text for path in FILES if "process_group()" in (text := path.read_text()) and " scratch(" in text]
    opened = [line for text in parallel for line in text.splitlines() if " scratch(" in line]
    assert len(opened) == 17 and all("meet=barrier" in line for line in opened)


def commands_of(stage: dict) -> list[str]:
    """The commands of a stage of dvc.yaml, which may be one text."""
    return [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_of_its_command_and_reads_its_own_params(name):
    stage = STAGES[name]
    module = re.match(r"python -m (\S+)", commands_of(stage)[-1])[1]
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
    if name != "code":
        assert f"data/code/{module.removeprefix('stages.')}" in stage["deps"]
    read = {key.split(".")[0] for key in read_by(stage) if "${item" not in key}
    lists = {"pretrained", "tokenizers", "decoders", "generators", "alternating_generators", "ablation"}
    lists |= {"text_encoders", "caption_checkers", "recognition_tasks", "recognition_networks"}
    lists |= {"code_noise_fid"} if name in ("code", "report") else set()
    assert read - lists <= {name.removeprefix("alternating_")}, f"{name} reads foreign params"


BY_DIGEST = {("codebook", "features"), ("generator", "text"), ("samples", "text")}  # in data/inputs, data/captions


def test_what_a_command_reads_is_among_its_dependencies():
    for name, stage in STAGES.items():
        given = re.findall(r"--(\S+) (data/\S+)", " ".join(commands_of(stage)))
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]
        for option, path in given:
            covered = [dep for dep in stage["deps"] if dep == path or dep.startswith(f"{path}/")]
            if path not in outs and (name, option) not in BY_DIGEST:
                assert covered, f"{name}: --{option} {path} is no dependency"


def test_help_of_every_command_says_how_to_run_it_and_imports_nothing_heavy():
    lines = ["import sys, runpy, contextlib, io"]
    for module in MODULES:
        lines += [
            f"sys.argv, text = ['{module}', '--help'], io.StringIO()",
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):",
            f"    runpy.run_module('{module}', run_name='__main__')",
            f"assert 'Run:' in text.getvalue() and 'Expect:' in text.getvalue(), '{module}'",
            f"assert not {HEAVY} & {{*sys.modules}}, ('{module}', {HEAVY} & {{*sys.modules}})",
        ]
    lines += ["from stages.use import command", f"assert not {HEAVY} & {{*sys.modules}}, 'stages.use'"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
