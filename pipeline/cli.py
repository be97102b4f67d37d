"""semtok: run the pipeline under Prefect, watch it, and look after it. `dvc` alone can do everything that runs stages.

Run: semtok --help
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

EXAMPLES = """examples:
  semtok ui                          start the server and say where its page is
  semtok run                         everything that is stale
  semtok run generator --jobs 2      both generators and what they need, two stages at once
  semtok run tokens --downstream     tokens and all that is made from it
  semtok set codebook.kmeans.num_codes=512  change a parameter; says which stages that reruns
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="semtok", description="Run, watch and look after the pipeline of dvc.yaml.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    add_run(verbs)
    ui = verbs.add_parser("ui", help="start the Prefect server on this machine if none answers, and say where it is")
    ui.add_argument("--stop", action="store_true", help="stop it")
    serve = verbs.add_parser("serve", help="wait for runs that are started in the UI, with parameters; Ctrl-C ends it")
    serve.add_argument("--pool", help="register with this Prefect work pool, whose workers wait instead, and end")
    edit = verbs.add_parser("set", help="change values of params.yaml, checked first; says which stages that reruns")
    edit.add_argument(
        "assignments", nargs="+", metavar="KEY=VALUE",
        help="such as codebook.kmeans.num_codes=512; @FILE: all values of that file, such as @presets/scenes.yaml",
    )  # fmt: skip
    verbs.add_parser("status", help="each stage: up to date or why not, and how long it took last time")
    doctor = verbs.add_parser("doctor", help="check the installation, the GPU, the disk, and what a crash left behind")
    doctor.add_argument("--fix", action="store_true", help="repair what can be repaired")
    return top


def add_run(verbs: Any) -> None:
    """`semtok run`."""
    run = verbs.add_parser("run", help="run what is stale, in the order of the graph")
    examples = "a stage: generator, generator@kmeans-ar, 'generator@kmeans-*'"
    run.add_argument("targets", nargs="*", metavar="TARGET", help=examples)
    run.add_argument("--jobs", type=int, metavar="N", help="stages at once (default: what GPUs take, else 1)")
    run.add_argument("--per-gpu", type=int, metavar="N", default=1, help="stages at once on one GPU (default: 1)")
    which = run.add_mutually_exclusive_group()
    which.add_argument("--downstream", action="store_true", help="the targets and what is made from them")
    which.add_argument("--single", action="store_true", help="only the targets, even if what they read is stale")
    run.add_argument("--force", action="store_true", help="compute even what is up to date, also above the targets")


def main() -> None:
    """Exit status 0: done; 1: a stage failed or the server has gone; 2: it could not start; 130: interrupted."""
    args = vars(parser().parse_args())
    verb = args.pop("verb")
    os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect.toml cannot keep Prefect's import from asking for usage data
    keep_bytecode()
    try:
        os.chdir(root_above(Path.cwd()))
        status = globals()[f"do_{verb}"](**args)
        sys.stdout.flush()
        sys.exit(status)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def keep_bytecode() -> None:
    """As stages do (stages/core/runtime.py), for this process and all that it starts: Prefect, DVC."""
    if sys.dont_write_bytecode and sys.prefix != sys.base_prefix:
        sys.pycache_prefix, sys.dont_write_bytecode = f"{sys.prefix}/bytecode", False
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def root_above(folder: Path) -> Path:
    """The nearest folder with a dvc.yaml, at or above `folder`."""
    for path in [folder, *folder.parents]:
        if (path / "dvc.yaml").is_file():
            return path
    raise PipelineError(f"{folder}: no dvc.yaml here or above: semtok works inside the repository")


def do_run(targets: list[str], **options: Any) -> int:
    from pipeline import server

    server.require()
    from pipeline.run import run

    return run(targets, **options)


def do_ui(stop: bool) -> int:
    from pipeline import server

    if stop:
        server.stop()
        print("stopped")
        return 0
    if not server.answers():
        server.start()
    print(f"the Prefect UI is at {server.ui_url()}; stop it with `semtok ui --stop`")
    return 0


def do_serve(pool: str | None) -> int:
    from pipeline import server

    server.require()
    from pipeline.run import serve

    serve(pool)
    return 0


def do_set(assignments: list[str]) -> int:
    from pipeline.edit import set_values

    set_values(assignments)
    return 0


def do_status() -> int:
    from pipeline.status import print_status

    print_status()
    return 0


def do_doctor(fix: bool) -> int:
    from pipeline.doctor import doctor

    return doctor(fix)
