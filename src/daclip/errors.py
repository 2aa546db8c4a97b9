"""The one exception that means "the user can fix this"."""

__all__ = ["DaclipError"]


class DaclipError(Exception):
    """A mistake in the input, stated in one line that says what is wrong and what to do.

    Entry points print the message without a traceback and exit with a non-zero status.
    """
