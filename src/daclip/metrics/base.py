"""Base classes of the fidelity metrics: one score a photo, or one score a set of photos."""

import socket
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from daclip.errors import DaclipError
from daclip.files import one_line

DOWNLOAD_SECONDS = 30.0  # a connection that is silent for longer counts as absent


class MetricUnavailableError(DaclipError):
    """A metric cannot be computed here; the message is the reason, and the other metrics are kept."""


class PairMetric(Metric):
    """Compares each photo with its own reference; `scores` holds one tensor a batch."""

    full_state_update = False
    needs_rgb: ClassVar[bool] = False  # whatever the protocol's colour space
    scores: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Scores `[B]` of `[B, C, H, W]` in [0, 1]; `MetricUnavailableError` without weights or for small photos."""

    def update(self, images: Tensor, reference: Tensor) -> None:
        """Score a batch and keep the scores."""
        self.scores.append(self.score(images, reference))

    def compute(self) -> Tensor:
        """Mean over all photos."""
        return dim_zero_cat(self.scores).double().mean()


class SetMetric(Metric):
    """Compares a set of photos with the set of their references; may raise `MetricUnavailableError`."""

    needs_rgb: ClassVar[bool] = True


class LazyNetwork:
    """A frozen network that is loaded at its first use and shared by all copies of a metric."""

    def __init__(self, load: Callable[[], nn.Module]):
        self._load = load
        self._network: nn.Module | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "LazyNetwork":
        """The same object."""
        return self

    def on(self, device: torch.device) -> Any:
        """The network on a device; raises `MetricUnavailableError` if its weights cannot be had."""
        if self._network is None:
            with loading():
                self._network = self._load().eval().requires_grad_(False)
        return self._network.to(device)


def refuse_small(images: Tensor, side: int) -> None:
    """Raise `MetricUnavailableError` for photos with a side below what a metric's windows need."""
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
