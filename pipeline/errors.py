"""Errors that a user can act on: the command prints one as a message without a traceback, exit status 2."""


class PipelineError(Exception):
    """Something outside the code is wrong. The message says what, where, and what to do about it."""
