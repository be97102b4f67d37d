"""The commands that use what was trained: encode, decode, reconstruct, sample, inpaint, vary.

Run:    semtok encode --help
Expect: what the command makes, at --out; progress and notes on stderr; a summary, or with --json one object, on stdout.
        Status 0, also if some files could not be read: they are listed with the reason. Status 2: a value that cannot
        work, or no file that can be read; nothing is written then.

Artifacts are named as the folders below data/ of the repository in or above the current folder, such as kmeans,
kmeans-onestep, kmeans-masked; or by the path of a folder anywhere. Whatever can be refused without a network is, here.
"""

import json
import sys
from importlib import import_module

from stages.core import UserError
from stages.core.progress import full_disk
from stages.core.runtime import keep_bytecode, keep_memory
from stages.use import door
from stages.use.options import parser

MODULES = {"inpaint": "edit", "vary": "edit"}  # of commands whose module has another name


def main(arguments: list[str]) -> int:
    """Run one command; its exit status."""
    options = vars(parser().parse_args(arguments))
    keep_bytecode()
    keep_memory()
    try:
        name, as_json = options.pop("command"), options.pop("json")
        options = door.CHECKS[name](options)
        result, lines = import_module(f"stages.use.{MODULES.get(name, name)}").main(**options)
        print(json.dumps(result) if as_json else "\n".join(lines))
        return 0
    except KeyboardInterrupt:
        return 130
    except (UserError, OSError, RuntimeError) as error:
        return refused(error)


def refused(error: Exception) -> int:
    """Print what a user can act on, status 2; other errors are raised again."""
    said = str(error) if isinstance(error, UserError) else full_disk(error)
    if not said:
        raise error
    print(f"error: {said}", file=sys.stderr)
    return 2
