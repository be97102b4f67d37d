"""The error that a user can fix: a wrong parameter, file or shape."""


class UserError(Exception):
    """Its message says what is wrong, where, and what was expected; a stage ends with it and status 2."""
