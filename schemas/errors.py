"""The error that a user can fix."""


class UserError(Exception):
    """Something that a user can fix. The message is one line that names the place and the fix."""
