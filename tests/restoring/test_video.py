"""A clip made here, with sound, through the command: what changes, what is kept, and that nothing flickers."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import assert_one_line, invoke
from skimage import data

from daclip import Restorer
from daclip.errors import DaclipError
from daclip.pixels import Pixels
from daclip.restoring.video import Cuts, SteadyRestorer, restore_video

av = pytest.importorskip("av")

RATE = 25
PHOTO = np.ascontiguousarray(data.coffee()[100:164, 200:264])
# Frames need not follow each other evenly.
TIMES = [0, 1, 2, 3, 5, 6, 7, 8, 9, 12]


def make(path: Path, frames: list[np.ndarray], sound: bool = True, colorspace: int = 1) -> Path:
    with av.open(str(path), "w") as out:
        shown = out.add_stream("libx264", rate=RATE, options={"crf": "4"})
        shown.height, shown.width, shown.pix_fmt = *frames[0].shape[:2], "yuv420p"
        shown.codec_context.colorspace = colorspace
        heard = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        for time, pixels in zip(TIMES, frames, strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=colorspace
            )
            frame.pts, frame.time_base = time, Fraction(1, RATE)
            out.mux(shown.encode(frame))
        out.mux(shown.encode())
        if heard is not None:
            tone = np.sin(np.arange(8000) / 16000 * 440 * 2 * np.pi).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 16000, 0, Fraction(1, 16000)
            out.mux(heard.encode(samples))
            out.mux(heard.encode())
    return path


def frames_of(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as read:
        frames = list(read.decode(video=0))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames]


def sound_of(path: Path) -> list[tuple[Any, ...]]:
    with av.open(str(path)) as read:
        return [(packet.pts, packet.time_base, bytes(packet)) for packet in read.demux(audio=0) if packet.size]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("video") / "clip.mp4", [np.roll(PHOTO, i, 1) for i in range(10)])


@pytest.fixture(scope="module")
def restorer(restorer_artifact: Path) -> Restorer:
    return Restorer(restorer_artifact, None, "cpu", "fp32")


def test_the_command_keeps_sound_and_timing(restorer_artifact: Path, clip: Path, tmp_path: Path, capsys: Any) -> None:
    result = tmp_path / "out" / "clean.mp4"
    common = ["daclip.commands.restore", str(clip), "--artifact", str(restorer_artifact)]
    assert invoke(*common, "-o", str(result)) is None
    assert "starts over" in capsys.readouterr().out
    before, times = frames_of(clip)
    after, same = frames_of(result)
    assert after.shape == before.shape
    assert same == pytest.approx(times)
    assert times == pytest.approx([time / RATE for time in TIMES])
    assert np.abs(after.astype(int) - before).mean() > 3
    assert sound_of(result) == sound_of(clip)
    assert len(sound_of(clip)) > 5
    record = json.loads((result.parent / "summary.jsonl").read_text())
    assert (record["status"], record["size"], record["results"]) == ("restored", [64, 64], [str(result)])
    assert [path.name for path in result.parent.iterdir() if path.name.startswith(".")] == []
    # What is there stays, and a folder takes the video's name.
    stamp = result.stat().st_mtime_ns
    assert invoke(*common, "-o", str(result)) is None
    assert result.stat().st_mtime_ns == stamp
    assert_one_line(invoke(*common, "-o", str(clip.parent)), "would be overwritten")
    assert_one_line(invoke(*common, "-o", str(result), "--samples", "2"), "a video takes no")
    assert_one_line(invoke(*common, "photo.png", "-o", str(tmp_path)), "a command each")
    assert_one_line(invoke(*common, "-o", str(tmp_path / "clean.avi")), "videos are written as .mp4")


@pytest.mark.parametrize("colorspace", [1, 5])
def test_a_video_that_is_left_keeps_its_colours(restorer: Restorer, tmp_path: Path, colorspace: int) -> None:
    source = make(tmp_path / "a.mp4", [PHOTO] * 2, sound=False, colorspace=colorspace)
    clip = restore_video(restorer, source, tmp_path / "b.mkv", strength=0.0)
    assert clip.frames == 2
    change = frames_of(tmp_path / "b.mkv")[0].astype(int) - frames_of(source)[0]
    # Encoding once more costs detail, but moves no colour.
    assert np.abs(change).mean() < 3
    assert np.abs(change.mean((0, 1, 2))).max() < 0.7


def test_unsure_frames_share_one_remark(
    restorer: Restorer, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = iter(np.linspace(0.72, 0.85, 100))
    recognise = Restorer.recognise

    def unsure(self: Restorer, photo: Any) -> tuple[Any, dict[str, float]]:
        p = next(sure)
        return recognise(self, photo)[0], {"noisy": p, "clean": 1 - p}

    monkeypatch.setattr(Restorer, "recognise", unsure)
    notes = restore_video(restorer, clip, tmp_path / "unsure.mp4").notes
    assert [note for note in notes if "not sure" in note] == [
        "recognition is not sure of what is wrong, so part of the change was made; name the degradation to change all"
    ]


def test_still_frames_stay_still(restorer: Restorer) -> None:
    still = np.stack([PHOTO] * 3)
    done = SteadyRestorer(restorer).restore(still, [0] * 3).images
    assert np.array_equal(done[0], done[1])
    assert np.array_equal(done[1], done[2])
    assert not np.array_equal(done[0], restorer.restore(still).images[1])


def test_recognition_is_an_exponential_mean(restorer: Restorer) -> None:
    steady = SteadyRestorer(restorer, memory=0.75)
    noisy = np.random.default_rng(0).integers(-40, 40, PHOTO.shape) + PHOTO
    frames = PHOTO, noisy.clip(0, 255).astype(np.uint8), 255 - PHOTO, 255 - PHOTO
    photos = [torch.from_numpy(photo).movedim(-1, 0) for photo in frames]
    found = restorer.classify(photos)
    first, second, *others = steady.classify(photos)
    assert first == found[0] != found[1]
    for name, share in second.items():
        assert share == pytest.approx(0.75 * found[0][name] + 0.25 * found[1][name])
    assert list(second.values()) == sorted(second.values(), reverse=True)
    # A new scene inherits nothing.
    assert others[0] == found[2]
    assert others[1] == pytest.approx(found[3])


def test_measuring_the_network_is_no_frame(restorer_artifact: Path) -> None:
    steady = SteadyRestorer(Restorer(restorer_artifact, None, "cpu", "fp32", tile=128, overlap=64))
    faint = PHOTO // 8 + 112  # so near to the gray that is measured with that none is a cut
    assert np.array_equal(steady.restore(faint).image, steady.restore(faint).image)


def begins(frames: list[np.ndarray]) -> list[int]:
    """The frames with which scenes begin."""
    cuts = Cuts()
    return [number for number, frame in enumerate(frames) if cuts.begins(Pixels(frame))]


def flat(*levels: int) -> list[np.ndarray]:
    return [np.full((20, 30, 3), level, np.uint8) for level in levels]


def test_a_scene_begins_where_the_picture_changes_by_far_more_than_before() -> None:
    assert begins(flat(100, 100, 114, 114)) == [0]  # by 0.055
    assert begins(flat(100, 100, 117, 117)) == [0, 2]  # by 0.067
    # One that goes up and down by 0.08 each time is soon taken as usual.
    assert max(begins(flat(*[60, 80] * 6))) < 4
    assert begins(flat(*[60, 80] * 6, *[250] * 3))[-1] == 12
    # A pan, and another place.
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 3, 2).repeat(20, 0)
    pan = [np.roll(ramp, step, 1) for step in range(6)]
    assert begins(pan + [frame[:, ::-1] for frame in pan]) == [0, 6]
    # A flash is a scene of its own, and what follows does not inherit it either.
    assert begins(flat(*[50] * 6, 255, *[50] * 6)) == [0, 6, 7]


def test_a_damaged_video_is_refused_and_nothing_is_left(restorer: Restorer, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:2000])
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        heard = out.add_stream("aac", rate=16000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        out.mux(heard.encode(samples))
        out.mux(heard.encode())
    for name, reason in (("text.mp4", "damaged"), ("half.mp4", "damaged"), ("sound.mp4", "only sound")):
        with pytest.raises(DaclipError, match=reason) as caught:
            restore_video(restorer, tmp_path / name, tmp_path / "out" / "a.mp4")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*"))
