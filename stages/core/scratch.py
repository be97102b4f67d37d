"""Where unfinished work waits: scratch/<task>/<fingerprint of params, inputs and code>/, ignored by git and DVC.

Running a killed command again finds its own folder and goes on; changed params, inputs or code have another
fingerprint and can never resume foreign work.
"""

import hashlib
import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from stages.core import distributed
from stages.core.artefact import digest, sha256
from stages.core.params import Section

ROOT = Path("scratch")
CODE = Path(__file__).absolute().parents[1]


@contextmanager
def scratch(task: str, params: Section, inputs: list[Path], facts: str = "") -> Generator[Path]:
    """The folder of this very piece of work; removed, with those of earlier attempts, when the block succeeds.

    Of several processes the first one removes it, so the block must end in a barrier.
    """
    folder = ROOT / task / fingerprint(params, inputs, facts)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if distributed.rank() == 0:
        shutil.rmtree(ROOT / task)


def fingerprint(params: Section, inputs: list[Path], facts: str = "") -> str:
    """16 hex digits of the params, the input artefacts' digests, every source file below stages/, and `facts` on inputs
    that are no artefact."""
    code = [sha256(file) for file in sorted(CODE.rglob("*.py"))]
    known = [params.model_dump(), {str(path): digest(path) for path in inputs}, code, facts]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
