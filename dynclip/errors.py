"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Bad input or a damaged file: the message is one line that says what, where, what was expected and what to run.

    The command line prints it without a traceback and exits with status 2.
    """
