"""What every stage shares, and the error that a user can fix."""


class UserError(Exception):
    """A wrong parameter, file or shape. The message says what is wrong, where, and what was expected.

    A stage ends with it and status 2.
    """
