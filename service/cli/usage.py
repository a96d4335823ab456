"""The error of somebody who types a command."""

from service.errors import PenstockError


class UsageError(PenstockError):
    """What was asked for cannot be done as it was asked; exit code 2. The text says how it can."""
