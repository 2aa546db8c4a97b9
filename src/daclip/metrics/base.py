"""What a fidelity metric is: one score a photo, or one score a set of photos."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor

from daclip.errors import DaclipError
from daclip.files import one_line

DOWNLOAD_SECONDS = 30.0  # a connection that is silent for longer counts as absent


class MetricUnavailableError(DaclipError):
    """A metric cannot be computed here; the message is the reason, and the other metrics are kept."""


class PairMetric(ABC):
    """Compares each photo with its own reference.

    Attributes:
        higher_is_better: Direction of a better score.
        needs_rgb: Looks at RGB whatever the protocol's colour space, since its network was trained on RGB.
    """

    higher_is_better: ClassVar[bool]
    needs_rgb: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Scores of a batch.

        Args:
            images: float32 `[B, C, H, W]` in [0, 1], as the protocol prepared them.
            reference: Same shape and range.

        Returns:
            `[B]`.

        Raises:
            MetricUnavailableError: Weights cannot be had, or the photos are too small.
        """


class SetMetric(ABC):
    """Compares a set of photos with the set of their references.

    Attributes:
        higher_is_better: Direction of a better score.
        needs_rgb: Looks at RGB whatever the protocol's colour space.
    """

    higher_is_better: ClassVar[bool]
    needs_rgb: ClassVar[bool] = True

    @abstractmethod
    def add(self, images: Tensor, reference: Tensor) -> None:
        """Take in a batch, both `[B, 3, H, W]` in [0, 1].

        Raises:
            MetricUnavailableError: Weights cannot be had.
        """

    @abstractmethod
    def value(self) -> float:
        """The score of all that was added.

        Raises:
            MetricUnavailableError: Too few photos.
        """


def refuse_small(images: Tensor, side: int) -> None:
    """Refuse photos with a side below what a metric's windows need.

    Raises:
        MetricUnavailableError: They are smaller.
    """
    if min(images.shape[-2:]) < side:
        raise MetricUnavailableError(f"photos need sides of at least {side} pixels, got {list(images.shape[-2:])}")


@contextmanager
def loading() -> Iterator[None]:
    """Turn every way in which a network's weights can be missing into `MetricUnavailableError`."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        yield
    except ModuleNotFoundError as error:
        raise MetricUnavailableError("a package is missing; install daclip[perceptual]") from error
    except DaclipError as error:
        raise MetricUnavailableError(str(error)) from error
    except (OSError, RuntimeError) as error:  # no network, a refusal, a damaged download
        raise MetricUnavailableError(f"its weights cannot be downloaded ({one_line(error)})") from error
    finally:
        socket.setdefaulttimeout(patience)
