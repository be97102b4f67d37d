"""semtok: run the pipeline under Prefect, watch it, maintain it. `dvc` alone can do everything that runs stages.

Run: semtok --help
"""

import argparse
import gc
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

EXAMPLES = """examples:
  semtok ui                          start the server and print its address
  semtok run                         everything that is stale
  semtok run generator --jobs 2      both generators and what they need, two stages at once
  semtok run tokens --downstream     tokens and everything downstream of it
  semtok set codebook.kmeans.num_codes=512  change a parameter; lists the stages that become stale
  semtok seeds codebook.kmeans 1 2   train it twice more; the report shows the spread between trainings
  semtok encode photos/ --tokenizer kmeans --out codes.npz  use what was trained; each such command has its own --help
"""
MODULES = {"ui": "server", "set": "edit"}  # of commands whose module has another name
NEED_SERVER = ("run", "serve")
USE = {  # commands that use what was trained: stages/use/, in a process of its own
    "encode": "images -> codes in a .npz file",
    "decode": "codes in a .npz file -> images",
    "reconstruct": "a picture of images beside what tokenizers and decoders make of them",
    "sample": "new images from a generator, in a picture or a folder",
    "inpaint": "the part of an image under a mask, drawn anew",
    "vary": "variants of an image",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="semtok", description="Run, watch and maintain the pipeline of dvc.yaml, and use what it has trained.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_run(commands)
    for name, what in USE.items():
        commands.add_parser(name, help=what, add_help=False)
    ui = commands.add_parser("ui", help="start the Prefect server on this machine if none answers; print its address")
    ui.add_argument("--stop", action="store_true", help="stop it")
    serve = commands.add_parser("serve", help="wait for runs that are started in the UI, with parameters; Ctrl-C ends")
    serve.add_argument("--pool", help="register with this Prefect work pool, whose workers wait instead, and end")
    edit = commands.add_parser("set", help="change values of the params, checked first; lists what becomes stale")
    edit.add_argument(
        "assignments", nargs="+", metavar="KEY=VALUE",
        help="such as codebook.kmeans.num_codes=512; @FILE: all values of a preset, such as @presets/scenes.yaml",
    )  # fmt: skip
    seeds = commands.add_parser("seeds", help="add trainings that differ by seed only, for the spread between them")
    seeds.add_argument("section", help="a tokenizer, decoder or generator in use, such as codebook.kmeans")
    seeds.add_argument("seeds", nargs="+", type=int, metavar="SEED", help="such as 1 2: adds kmeans_s1 and kmeans_s2")
    compare = commands.add_parser("compare", help="experiments or commits side by side: params, numbers, pictures")
    names = "a name of `dvc exp list`, a commit, a branch, or workspace; with one, the other side is the workspace"
    compare.add_argument("experiments", nargs="+", metavar="EXP", help=names)
    compare.add_argument("--out", type=Path, default=Path("reports/compare.html"), help="page to write")
    commands.add_parser("import-weights", help="make weights of others a file for the encoder", add_help=False)
    commands.add_parser("status", help="each stage: up to date or why not, and how long it took last time")
    cost = commands.add_parser("cost", help="what the main stages would cost: work, operations, data, time")
    cost.add_argument("--gpu", metavar="NAME", help="time on one such GPU, such as h100, instead of this machine")
    numbers, what = ("TRAIN", "VAL", "CLASSES"), "for images that are not here: their numbers, and that of classes"
    cost.add_argument("--images", nargs=3, type=int, metavar=numbers, help=what)
    export = commands.add_parser("export", help="a tokenizer, decoder or generator as a folder that stands alone")
    export.add_argument("name", help="such as kmeans, kmeans-onestep or kmeans-ar, or an artifact's folder")
    export.add_argument(
        "--to", type=os.path.abspath, required=True, metavar="FOLDER", help="the folder to write; it must not exist"
    )
    export.add_argument("--decoder", metavar="NAME", help="of a generator: which decoder it takes along")
    export.add_argument("--format", choices=["torch"], help="also as a program of torch.export, such as encoder.pt2")
    export.add_argument("--push", metavar="OWNER/NAME", help="also upload it to the Hugging Face Hub")
    doctor = commands.add_parser("doctor", help="check the installation, the GPU, the disk, and what a crash has left")
    doctor.add_argument("--fix", action="store_true", help="repair what can be repaired, remove what is not needed")
    return top


def add_run(commands: Any) -> None:
    """`semtok run`."""
    run = commands.add_parser("run", help="run what is stale, in the order of the graph")
    examples = "a stage: generator, generator@kmeans-ar, 'generator@kmeans-*'"
    run.add_argument("targets", nargs="*", metavar="TARGET", help=examples)
    run.add_argument("--jobs", type=int, metavar="N", help="stages at once (default: as many as GPUs allow, else 1)")
    run.add_argument("--per-gpu", type=int, metavar="N", default=1, help="stages at once per GPU (default: 1)")
    which = run.add_mutually_exclusive_group()
    which.add_argument("--downstream", action="store_true", help="the targets and everything downstream of them")
    which.add_argument("--single", action="store_true", help="only the targets, even if their inputs are stale")
    run.add_argument("--force", action="store_true", help="run also what is up to date, upstream of targets too")


def main() -> None:
    """Exit status 0: done; 1: a stage failed or the server has gone; 2: it could not start; 130: interrupted."""
    if sys.argv[1:2] and sys.argv[1] in USE:
        use(sys.argv[1:])
    if sys.argv[1:2] == ["import-weights"]:  # in the user's own folder, whose paths the arguments are
        command = [sys.executable, "-P", "-W", "ignore", "-m", "stages.encoder.import_weights", *sys.argv[2:]]
        os.execv(sys.executable, command)
    options = vars(parser().parse_args())
    os.environ.setdefault("DO_NOT_TRACK", "1")  # importing Prefect asks for usage data, whatever prefect.toml says
    keep_bytecode()
    try:
        os.chdir(find_root(Path.cwd()))
        status = call(options.pop("command"), options)
        sys.stdout.flush()
        sys.exit(status)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has closed its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def use(arguments: list[str]) -> None:
    """Become the process of `stages/use/`, in the user's own folder, whose paths the arguments are."""
    os.execv(sys.executable, [sys.executable, "-P", "-W", "ignore", "-m", "stages.use", *arguments])


def call(command: str, options: dict[str, Any]) -> int:
    """Import the module of a command, since importing DVC and Prefect takes seconds, and call its `main`."""
    if command == "run":
        import_module("pipeline.turn").begin()
    gc.disable()  # modules are no garbage, and looking for some takes a tenth of the time of importing them
    if command in NEED_SERVER:
        import_module("pipeline.server").require()
    module = import_module(f"pipeline.{MODULES.get(command, command)}")
    gc.enable()
    return module.main(**options)


def keep_bytecode() -> None:
    """Where Python may not write bytecode beside sources, keep it in the virtual environment; children do so, too."""
    if sys.dont_write_bytecode and sys.prefix != sys.base_prefix:
        sys.pycache_prefix, sys.dont_write_bytecode = f"{sys.prefix}/bytecode", False
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def find_root(folder: Path) -> Path:
    """The nearest folder with a dvc.yaml, at or above `folder`, that is not in another one, as studies/ is."""
    for path in [folder, *folder.parents]:
        if (path / "dvc.yaml").is_file() and not (path.parent / "dvc.yaml").is_file():
            return path
    raise PipelineError(f"{folder}: no dvc.yaml here or above: semtok works inside the repository")
