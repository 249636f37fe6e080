"""Errors that are the user's to mend, told in one sentence instead of a traceback."""


class UserError(Exception):
    """Something given on the command line cannot be used; the message says what, and what is allowed."""


class TrainingFailed(UserError):
    """The loss, the model or a logit of a test image is no longer finite."""


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


class Stopped(Exception):
    """A run has ended early, in order, because the signal `number` asked it to."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
