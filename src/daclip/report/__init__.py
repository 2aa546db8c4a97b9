"""One page from the records of one or several runs: `python -m daclip.report runs=[FOLDER,…]`."""

from daclip.report.command import main, report

__all__ = ["main", "report"]
