"""A tokenizer, decoder or generator as a folder that stands alone, with a model card: see stages/export.py.

Run:    semtok export NAME --to FOLDER [--decoder NAME] [--format torch] [--push OWNER/NAME]
Expect: seconds; one line that names the folder. Its card has no figures of reports that are out of date.
"""

from pathlib import Path

from pipeline.dvc_status import read_status
from pipeline.errors import PipelineError
from pipeline.params_check import ask

SECS = 3600  # an upload takes its time
MEASURE = ("codebook@", "reconstruction@", "generation@")  # stages whose metrics a card shows


def main(name: str, to: str, decoder: str | None, format: str | None, push: str | None) -> int:
    """Ask the stages' own code, which knows what an artifact holds."""
    chosen = {"--decoder": decoder, "--format": format, "--push": push}
    options = [word for option, value in chosen.items() if value for word in (option, value)]
    stale = [stage for stage in sorted(read_status().affected()) if stage.startswith(MEASURE)]
    printed, errors = ask("stages.export", name, "--to", str(Path(to)), *options, "--stale", *stale, secs=SECS)
    if errors:
        raise PipelineError("\n".join(errors))
    print(printed, end="")
    return 0
