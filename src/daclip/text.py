"""Texts from outside, such as names of files, captions and metadata, as terminals and Markdown show them."""

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
