"""The two kinds of failure that callers tell apart from a defect of ours."""


class UserError(Exception):
    """A mistake a user can mend: what was found, where, what was expected, what to do next.

    Entry points print it without a stack trace and exit with code 2.
    """


class CallError(ValueError):
    """A text or value that is no legal tool call of the task; the message is the reason."""
