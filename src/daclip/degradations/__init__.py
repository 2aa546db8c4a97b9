"""Synthetic degradations: clean photos in, degraded photos out, one family a file."""

from daclip.degradations.base import Degradation as Degradation
from daclip.degradations.base import split_classes as split_classes
from daclip.degradations.base import vocabulary as vocabulary
