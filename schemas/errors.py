"""The error that a user can mend."""


class UserError(Exception):
    """Something a user can mend. The message is one line that names the place and the fix."""
