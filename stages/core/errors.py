"""Errors that a user can act on: `core/runtime.py` prints one as a message without a traceback, exit status 2."""


class UserError(Exception):
    """Something outside the code is wrong. The message says what, where, and what to do about it."""
