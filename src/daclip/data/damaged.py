"""Photos that cannot be decoded: left out of training, counted and listed, up to a limit."""

import logging
import os
import tempfile
import weakref
from pathlib import Path

from torch.utils.data import Dataset

from daclip.data.pairs import Sample
from daclip.errors import DaclipError, DamagedPhotoError

__all__ = ["DamagedPhotos", "WithoutDamaged"]

log = logging.getLogger(__name__)

ATTEMPTS = 100  # draws of another photo before a word counts as having none that can be read
STRIDE = 2**32  # beyond any number of samples that a run reaches


class DamagedPhotos:
    """The list of damaged photos that all loader processes of a rank share.

    Args:
        limit: So many photos may be damaged; one more ends the run. 0 ends it at the first.
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise DaclipError(f"data.damaged_limit must be at least 0, got {limit}")
        self.limit = limit
        self._seen: set[str] = set()
        # A file, because loader processes share no memory; lines this short are appended whole.
        handle, name = tempfile.mkstemp(prefix="daclip-damaged-")
        os.close(handle)
        self._path = Path(name)
        weakref.finalize(self, _remove, self._path, os.getpid())

    def note(self, error: DamagedPhotoError) -> None:
        """Leave a photo out.

        Args:
            error: Names the photo and says what is wrong with it.

        Raises:
            DaclipError: There are more damaged photos than the limit allows.
        """
        if self.limit and str(error) in self._seen:
            return
        if str(error) not in self.names():
            log.warning("left out: %s", error)
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(handle, f"{' '.join(str(error).split())}\n".encode())
            finally:
                os.close(handle)
        self._seen.add(str(error))
        found = len(self.names())
        if found > self.limit:
            raise DaclipError(
                f"{error}; with it {found} photos are damaged and data.damaged_limit={self.limit} allows no more: "
                "find them with `make check-dataset SOURCE=...`"
            )

    def names(self) -> list[str]:
        """Every damaged photo once, each as one line with the reason."""
        return list(dict.fromkeys(self._path.read_text(encoding="utf-8").splitlines()))


def _remove(path: Path, process: int) -> None:
    """Delete the list; only the process that made it may, not a loader process with a copy of the object."""
    if os.getpid() == process:
        path.unlink(missing_ok=True)


class WithoutDamaged(Dataset[Sample]):
    """Samples of a numbered stream; one whose photo is damaged is replaced by another of the same word.

    What replaces it depends on the sample's number alone, so that a resumed run sees the same samples. With
    `data.mix.weights` the other one's word is drawn anew.

    Args:
        pairs: The stream; sample `index` depends on the number alone, words repeat after `period` samples.
        period: Number of words.
        damaged: The list.
    """

    def __init__(self, pairs: Dataset[Sample], period: int, damaged: DamagedPhotos):
        self.pairs = pairs
        self.period = period
        self.damaged = damaged

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index` of the endless stream."""
        for attempt in range(ATTEMPTS):
            try:
                return self.pairs[index + attempt * STRIDE * self.period]
            except DamagedPhotoError as error:
                self.damaged.note(error)
                last = error
        raise DaclipError(f"{last}; {ATTEMPTS} draws in a row met damaged photos: `make check-dataset SOURCE=...`")
