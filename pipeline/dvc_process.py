"""DVC's command line in a process that dies with its parent, and fails if DVC could not keep what the stage made.

Run: PIPELINE_PARENT=PID python -m pipeline.dvc_process [--force] STAGE      as pipeline/repro.py does
"""

import logging
import shutil
import sys

from dvc.cli import main as dvc

from pipeline.finding import human_size
from pipeline.parent import die_with_parent
from pipeline.repair import cache_folders

LOGGERS = ("dvc", "dvc_data", "dvc_objects")


class Errors(logging.Handler):
    """The messages of DVC's errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        cause = record.exc_info[1] if record.exc_info else None
        self.messages.append(record.getMessage() + (f" - {cause}" if cause else ""))


def not_kept(stage: str, message: str) -> str:
    """What stands, and what to do, where the cache is full, as a rule. DVC often ends with status 0 then."""
    folder = cache_folders()[1]
    free = human_size(shutil.disk_usage(folder).free)
    return (
        f"error: {stage}: DVC could not keep its outputs in the cache {folder}, where {free} are free: {message}. "
        "They are whole in the workspace. Free some space (`dvc gc --workspace` drops results of earlier params and "
        f"code), then `dvc commit -f {stage}` keeps them; without it the stage would run again."
    )


def main() -> None:
    die_with_parent()
    errors = Errors()
    status = dvc(["--wait-for-lock", "repro", "--single-item", *sys.argv[1:]])
    lost = [message for message in errors.messages if not status or message.startswith("failed to transfer")]
    if lost:
        print(not_kept(sys.argv[-1], lost[0]), flush=True)
    sys.exit(status or bool(lost))


if __name__ == "__main__":
    main()
