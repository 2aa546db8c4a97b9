"""Video: frames restored under one noise and a conditioning that changes slowly, with the sound and the timing kept."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from daclip.errors import DaclipError
from daclip.files import atomic_file, is_video, one_line
from daclip.pixels import LUMA, Pixels
from daclip.restoring.control import remark
from daclip.restoring.restorer import Restorer
from daclip.restoring.sampling import Progress
from daclip.types import Conditioning, Restoration

# Suffix → container, encoder and its options, near to what the eye cannot tell from the frames.
X264, VP9 = ("libx264", {"crf": "16"}), ("libvpx-vp9", {"crf": "20", "b:v": "0", "row-mt": "1"})
WRITTEN = {".mp4": ("mp4", *X264), ".m4v": ("mp4", *X264), ".mov": ("mov", *X264), ".mkv": ("matroska", *X264)}
WRITTEN[".webm"] = ("webm", *VP9)

# Flags of FFmpeg's swscale: bicubic, accurate rounding, all of the colours. Without them every conversion darkens by
# one level of 255.
EXACT = 0x4 | 0x40000 | 0x2000

MEMORY = 0.9  # of the exponential mean: some ten frames

# A cut: the side of the gray pictures that are compared, the least mean absolute difference in [0, 1], how many times
# the usual one it must be, and the frames that make up what is usual.
SMALL, LEAST, TIMES, USUAL = 16, 0.06, 3, 5


def result_of(video: Path, output: Path) -> Path:
    """The file of a restored video: the output itself if that is one by its name, else one of its name in there."""
    if is_video(output):
        result = output
    else:
        result = output / (video.name if video.suffix.lower() in WRITTEN else f"{video.name}.mp4")
    if result.suffix.lower() not in WRITTEN:
        raise DaclipError(f"{result}: videos are written as {', '.join(WRITTEN)}; choose one of them")
    return result


class Cuts:
    """Finds where scenes begin, in the frames of one clip in their order: there the picture changes by far more than it
    just did from frame to frame."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._usual = 0.0  # exponential mean of the differences

    def begins(self, frame: Pixels) -> bool:
        """Whether this frame is the first of a scene."""
        small = adaptive_avg_pool2d((frame.crop() * LUMA).sum(0, keepdim=True), SMALL)
        before, self._before = self._before, small
        if before is None:
            return True
        difference = float((small - before).abs().mean())
        usual, self._usual = self._usual, self._usual + (difference - self._usual) / USUAL
        return difference > max(LEAST, TIMES * usual)


class SteadyRestorer(Restorer):
    """A restorer for the frames of one clip in their order. Embeddings and probabilities are exponential means over the
    frames of the scene so far, of which `memory` is the share of the past: what comes from one frame alone would
    flicker."""

    def __init__(self, restorer: Restorer, memory: float = MEMORY):
        self.__dict__.update(restorer.__dict__)
        self.memory = memory
        self._cuts = Cuts()
        self._past: tuple[Conditioning, dict[str, float]] = Conditioning(), {}

    def recognise(self, photo: Pixels) -> tuple[Conditioning, dict[str, float]]:
        """Embeddings and classes as of this frame and those before it in its scene."""
        now, probabilities = super().recognise(photo)
        if not self._cuts.begins(photo):
            before, past = self._past
            now = _mixed(before, now, self.memory)
            shares = {name: self.memory * past[name] + (1 - self.memory) * p for name, p in probabilities.items()}
            probabilities = dict(sorted(shares.items(), key=lambda item: -item[1]))
        self._past = now, probabilities
        return now, probabilities


def _mixed(before: Conditioning, now: Conditioning, memory: float) -> Conditioning:
    pairs = {part.name: (getattr(before, part.name), getattr(now, part.name)) for part in fields(Conditioning)}
    return Conditioning(**{name: None if b is None else b.lerp(n, 1 - memory) for name, (b, n) in pairs.items()})


@dataclass
class Clip:
    """What came of a video."""

    size: tuple[int, int] = (0, 0)  # width and height
    frames: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    last: Restoration | None = None  # its probabilities are means over the last scene


def restore_video(
    restorer: Restorer, source: Path, result: Path, on_progress: Progress | None = None, **wanted: Any
) -> Clip:
    """Restore a video file into another one, which appears when it is complete. `wanted` goes to `Restorer.restore`.
    Every frame gets the same field of noise. Memory holds as many frames as the restorer takes in one call."""
    try:
        import av
    except ModuleNotFoundError:
        raise DaclipError("videos need PyAV; install it with pip install 'daclip[video]'") from None
    container, codec, options = WRITTEN[result.suffix.lower()]
    clip, steady = Clip(), SteadyRestorer(restorer)
    with _one_line_errors(source, av), av.open(str(source)) as read:
        if not read.streams.video:
            raise DaclipError(f"{source}: has no picture, only sound")
        seen: Any = read.streams.video[0]
        sounds = list(read.streams.audio)
        if left := [stream.type for stream in read.streams if stream not in (seen, *sounds)]:
            clip.notes[f"left out: {', '.join(sorted(set(left)))}"] += 1
        rate = seen.average_rate or Fraction(25)
        length = seen.frames or int(float((read.duration or 0) / 1_000_000 * rate))
        with atomic_file(result) as file, av.open(file.file, "w", format=container) as written:
            written.metadata.update(read.metadata)
            shown: Any = written.add_stream(codec, rate=rate, options=dict(options))
            try:
                copies = {stream.index: written.add_stream_from_template(stream) for stream in sounds}
            except ValueError as error:
                raise DaclipError(
                    f"{source}: its sound does not fit into {result.suffix} ({one_line(error)})"
                ) from None
            first, waiting, held = None, list[Any](), list[Any]()

            def flush() -> None:
                photos = np.stack([_upright(frame) for frame in waiting])
                done = steady.restore(photos, [0] * len(waiting), **wanted)
                for frame, one in zip(waiting, done, strict=True):
                    made = av.VideoFrame.from_ndarray(one.image, format="rgb24").reformat(
                        format=shown.pix_fmt,
                        dst_colorspace=frame.colorspace,
                        dst_color_range=frame.color_range,
                        interpolation=EXACT,
                    )
                    step = int(1 / rate / seen.time_base)
                    made.pts, made.time_base = clip.frames * step if frame.pts is None else frame.pts, seen.time_base
                    clip.frames += 1
                    own, common = (remark(one.probabilities, one.share, several) for several in (False, True))
                    clip.notes.update([*(note for note in one.notes if note not in own), *common])
                    clip.last = one
                    written.mux(shown.encode(made))
                waiting.clear()
                if on_progress is not None and length:
                    on_progress(min(clip.frames / length, 1.0))

            for packet in read.demux(seen, *sounds):
                if packet.stream is not seen:
                    if packet.dts is not None:
                        packet.stream = copies[packet.stream.index]
                        # The file's header, which the first one writes, needs to know of the picture.
                        held.append(packet) if first is None else written.mux(packet)
                    continue
                for frame in packet.decode():
                    if first is None:
                        first, clip.size = frame, _describe(shown, frame, seen)
                        for early in held:
                            written.mux(early)
                    _check(frame, first, source, clip)
                    waiting.append(frame)
                    if len(waiting) == restorer.batch_size:
                        flush()
            if waiting:
                flush()
            if not clip.frames:
                raise DaclipError(f"{source}: holds no frame that can be read")
            written.mux(shown.encode())
    return clip


@contextmanager
def _one_line_errors(source: Path, av: Any) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        reason = one_line(error)
        raise DaclipError(f"{source}: damaged, or a kind of video that cannot be read or written ({reason})") from None


def _upright(frame: Any) -> np.ndarray:
    """The frame as it is shown, uint8 `[H, W, 3]`."""
    pixels = frame.to_ndarray(format="rgb24", interpolation=EXACT)
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


def _check(frame: Any, first: Any, source: Path, clip: Clip) -> None:
    """Refuse what would be damaged, and note what is lost."""
    shape = first.width, first.height, first.rotation
    if frame.is_corrupt or (frame.width, frame.height, frame.rotation) != shape:
        what = "is damaged" if frame.is_corrupt else "changes its size"
        raise DaclipError(f"{source}: {what} at {frame.time or 0:.2f} s; mend it, or cut it there")
    if frame.format.components[0].bits > 8:
        clip.notes["its depth became 8 bits"] = 1
    if frame.interlaced_frame:
        clip.notes["its frames are interlaced; take the lines apart before restoring"] = 1


def _describe(shown: Any, frame: Any, seen: Any) -> tuple[int, int]:
    """Give the encoder what the source says of its pixels and its clock; returns width and height as shown."""
    turned = frame.rotation % 180 != 0
    width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
    shown.width, shown.height = width, height
    halved = width % 2 == height % 2 == 0 and not frame.format.name.startswith("yuv444")
    shown.pix_fmt = "yuv420p" if halved else "yuv444p"
    context = shown.codec_context
    context.time_base = shown.time_base = seen.time_base
    for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
        setattr(context, name, getattr(frame, name))
    if (aspect := seen.codec_context.sample_aspect_ratio) and not turned:
        context.sample_aspect_ratio = aspect
    return width, height
