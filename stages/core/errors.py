"""Errors that a user can act on: printed as one message, without a traceback, exit status 2."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something outside the code is wrong. The message says what, where, and what to do about it."""


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`; a `UserError` ends the process with its message and status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
