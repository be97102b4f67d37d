"""Start one of the commands that use trained artifacts: `python -m stages.use encode …`, as `semtok encode …` does."""

import sys

from stages.use.command import main

sys.exit(main(sys.argv[1:]))
