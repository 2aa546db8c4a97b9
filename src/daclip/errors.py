"""Errors that a user can mend, and texts from outside (names of files, captions, metadata) as they are shown."""

import html
import re
import unicodedata


def printable(text: str) -> str:
    """The text with control characters, escapes, invisible marks and bytes that are no UTF-8 spelled out; lines stay.

    >>> print(printable("a\\x1b[31mb\\u202ec\\udce9"))
    a\\x1b[31mb\\u202ec\\udce9
    """

    def stays(c: str) -> bool:
        return c.isprintable() or c == "\n" or unicodedata.category(c) == "Zs"

    return "".join(c if stays(c) else c.encode("unicode_escape").decode() for c in text)


def markdown(text: str) -> str:
    r"""The text as one that Markdown shows as it is, also in a cell of a table: no HTML, links, pictures and code.

    >>> print(markdown("<b>a|b</b> ![x](y) `z`"))
    &lt;b&gt;a\|b&lt;/b&gt; ![x]\(y) \`z\`
    """
    line = html.escape(printable(" ".join(text.split())), quote=False)
    return re.sub(r"(?<=\])(?=[(\[])|(?=[|`])", r"\\", line)


class DaclipError(Exception):
    """A mistake in the input; one line says what is wrong and what to do. Entry points print it without a traceback and
    exit with a non-zero status; names of files that are no UTF-8 can be printed and stored as a part of it."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class DamagedPhotoError(DaclipError):
    """A photo that cannot be decoded; training leaves out a few of them (`data.max_damaged`)."""


class UnknownKindError(DamagedPhotoError):
    """A file that is no image of a kind that is read; nothing needs to be wrong with it."""

    def __init__(self, name: object, what: str = "a kind of file"):
        super().__init__(f"{name}: {what} that cannot be read; convert it to PNG, TIFF or JPEG")


class StoppedError(DaclipError):
    """The end of a run by a signal after its state was saved: nothing is wrong, and the same command can go on. The
    `message` says where it stopped and how to go on; an `exit_status` of 75 is "try again later" (EX_TEMPFAIL of
    sysexits.h). All ranks but one end with 0 and say nothing."""

    def __init__(self, message: str, exit_status: int = 75):
        super().__init__(message)
        self.exit_status = exit_status
