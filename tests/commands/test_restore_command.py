"""The commands `restore` and `classify` on real photos, as a user runs them."""

import contextlib
import io
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daclip import Restorer
from daclip.commands import main as cli
from daclip.errors import DaclipError
from daclip.restoring.batch import Job, attempt, plan
from daclip.restoring.control import Uncertainty, parse_classes
from daclip.restoring.sampling import sample_photos

# Mutated photos in the fuzz test; hundreds take minutes.
FUZZ = int(os.environ.get("DACLIP_FUZZ", "60"))

COFFEE, CAT = data.coffee(), data.chelsea()


@pytest.fixture
def place(tmp_path: Path, restorer_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a folder of photos, and a small restorer in place of the package's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("daclip.artifacts.PACKAGED", restorer_artifact)
    (tmp_path / "outputs" / "restorer").mkdir(parents=True)
    (tmp_path / "outputs" / "restorer" / "latest").symlink_to(restorer_artifact, target_is_directory=True)
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    Image.fromarray(COFFEE[:40, :60]).save(tmp_path / "photos" / "a [1].png")
    Image.fromarray(CAT[:50, :30]).convert("L").save(tmp_path / "photos" / "trip" / "cat, old.jpg")
    return tmp_path


def run(*arguments: str) -> str | int | None:
    """A command in this process: its error line or exit status, None if all went well."""
    before, written = sys.argv, io.StringIO()
    sys.argv = ["daclip", *arguments]
    try:
        with contextlib.redirect_stderr(written):
            cli.main()
    except SystemExit as stop:
        # 2 is a mistake on the command line, whose line argparse writes itself, or two failed photos.
        usage = stop.code == 2 and "photos could not" not in written.getvalue()
        return written.getvalue().rstrip("\n") if usage else None if stop.code in (None, 0) else stop.code
    finally:
        sys.argv = before
        sys.stderr.write(written.getvalue())
    return None


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_is_restored_recorded_and_gone_on_with(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("restore", "photos", "--output", "clean") is None
    assert Image.open("clean/a [1].png").size == (60, 40)
    cat = Image.open("clean/trip/cat, old.jpg")
    assert (cat.size, cat.mode) == ((30, 50), "L")
    assert "a [1].png → " in capsys.readouterr().out
    first, second = lines(place / "clean" / "summary.jsonl")
    assert first["status"] == second["status"] == "restored"
    assert first["photo"] == str(Path("photos/a [1].png"))
    assert first["results"] == [str(Path("clean/a [1].png"))]
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=0.01)
    assert first["size"] == [60, 40]
    assert first["seed"] == 0
    # Run again with one more photo: what is there is left alone, byte for byte.
    before = Path("clean/a [1].png").stat().st_mtime_ns
    Image.fromarray(CAT[:20, :20]).save("photos/new.png")
    assert run("restore", "photos", "--output", "clean", "--seed", "5") is None
    assert Path("clean/a [1].png").stat().st_mtime_ns == before
    assert [line["status"] for line in lines(place / "clean" / "summary.jsonl")[2:]] == ["kept", "restored", "kept"]
    assert "--overwrite" in capsys.readouterr().out
    old = Path("clean/a [1].png").read_bytes()
    assert run("restore", "photos/a [1].png", "--output", "clean", "--overwrite", "--seed", "5") is None
    assert Path("clean/a [1].png").read_bytes() != old


def test_a_result_depends_on_the_photo_alone(place: Path) -> None:
    assert run("restore", "photos", "-o", "together") is None
    assert run("restore", "photos/trip/cat, old.jpg", "-o", "alone") is None
    assert Path("alone/cat, old.jpg").read_bytes() == Path("together/trip/cat, old.jpg").read_bytes()


def test_an_output_above_the_photos_is_no_reason_to_leave_them_out(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Their folder's parent, and the working folder, by name and by pattern.
    photo, named = place / "photos" / "trip" / "cat, old.jpg", [str(place / "photos" / "trip"), "photos/trip/*.jpg"]
    for source in named:
        for output in ("photos", ".", str(place)):
            (job,) = plan([source], Path(output))
            assert job.photo.resolve() == photo.resolve()
            assert job.result == Path(output) / photo.name
    assert [job.photo.name for job in plan(["photos"], Path())] == ["a [1].png", "cat, old.jpg"]
    # Inside the folder that is searched they are earlier results, which is said.
    said: list[str] = []
    assert [job.photo.name for job in plan(["photos"], Path("photos/trip"), tell=said.append)] == ["a [1].png"]
    assert said == ["2 photos found", "1 photos in photos/trip count as earlier results and are left out"]
    for command, part in (
        (["photos/trip/*", "photos", "-o", "photos"], "is the input folder"),
        (["photos/*/*.jpg", "-o", "photos/trip"], "nothing to do: all photos lie in --output photos/trip"),
    ):
        assert part in str(run("restore", *command))
    (place / "photos" / "a [1].png").unlink()
    assert "nothing to do: no photo lies directly in photos" in str(run("restore", "photos", "--no-recursive"))
    assert not list(place.glob("**/*.jsonl"))


def test_patterns_formats_and_flat_folders(place: Path) -> None:
    assert run("restore", "photos/**/*.jpg", "--output", "one", "--format", "webp") is None
    assert [str(path.relative_to("one")) for path in Path("one").rglob("*.webp")] == ["trip/cat, old.webp"]
    assert run("restore", "photos", "--output", "two", "--no-recursive") is None
    assert [path.name for path in Path("two").iterdir() if path.suffix != ".jsonl"] == ["a [1].png"]


def test_several_samples_and_their_differences(place: Path) -> None:
    assert run("restore", "photos/a [1].png", "--output", "clean", "--samples", "3") is None
    names = {"a [1].png", "a [1].sample2.png", "a [1].sample3.png", "a [1].uncertainty.png", "summary.jsonl"}
    assert {path.name for path in Path("clean").iterdir()} == names
    one, two = (np.asarray(Image.open(f"clean/{name}")) for name in ("a [1].png", "a [1].sample2.png"))
    assert not np.array_equal(one, two)
    assert np.asarray(Image.open("clean/a [1].uncertainty.png")).max() == 255
    (line,) = lines(place / "clean" / "summary.jsonl")
    assert 0 < line["uncertainty"] < 1
    # The first sample is what a single one gives.
    assert run("restore", "photos/a [1].png", "--output", "single") is None
    assert Path("single/a [1].png").read_bytes() == Path("clean/a [1].png").read_bytes()


def test_words_and_strength_change_the_result(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def result(*options: str) -> np.ndarray:
        assert run("restore", "photos/a [1].png", "--output", "x", "--overwrite", *options) is None
        return np.asarray(Image.open("x/a [1].png")).astype(int)

    plain = result()
    rainy, mixed = result("--degradation", "rainy"), result("--degradation", "rainy:1,hazy:1")
    assert not np.array_equal(plain, rainy)
    assert not np.array_equal(rainy, mixed)
    assert np.array_equal(mixed, result("--degradation=rainy:0.5,hazy:0.5"))
    capsys.readouterr()
    result("--degradation", "drops, on a window")
    assert "free text" in capsys.readouterr().out
    assert np.array_equal(result("--strength", "0"), COFFEE[:40, :60])
    half = result("--strength", "0.5")
    assert np.abs(half - (COFFEE[:40, :60].astype(int) + plain) / 2).max() <= 1


def test_one_can_say_what_one_wants(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, told = "photos/a [1].png", "--instruction"
    assert run("restore", photo, "-o", "told", told, "slightly remove the rain but keep the fog") is None
    assert "repaired rainy by 30%; left hazy" in capsys.readouterr().out
    assert run("restore", photo, "-o", "named", "--degradation", "rainy", "--strength", "0.3") is None
    assert Path("told/a [1].png").read_bytes() == Path("named/a [1].png").read_bytes()
    (line,) = lines(place / "told" / "summary.jsonl")
    assert (line["repaired"], line["shares"]) == (["rainy"], {"rainy": 0.3})
    assert line["left"][0] == "hazy"
    assert run("restore", photo, "--dry-run", told, "remove the rain but keep the fog") is None
    assert "would repair rainy; left hazy" in capsys.readouterr().out
    for arguments, part in (
        ([told, "remove the tourists"], "'tourists' is nothing that can be repaired here; what can be repaired: "),
        ([told, ""], "it asks for no change"),
        ([told, "remove the rain", "--degradation", "rainy"], "not both"),
    ):
        error = str(run("restore", "photos", "-o", "refused", *arguments))
        assert error.startswith("error: ")
        assert part in error
        assert "\n" not in error
    assert not Path("refused").exists()


def test_names_that_other_tools_would_misread(place: Path) -> None:
    names = ["it's.png", "a=b [1],{c}.png", "-rf.png", "x$(touch made).png", "${y}.png"]
    for name in names:
        Image.fromarray(COFFEE[:20, :20]).save(name)
    Image.fromarray(COFFEE[:20, :24]).save("first.png")
    assert run("restore", "first.png", "-o", "clean", *names[:2], "--steps=1", "--", *names[2:]) is None
    assert {path.name for path in Path("clean").iterdir()} == {"first.png", *names, "summary.jsonl"}
    assert not Path("made").exists()


def test_another_sampler_with_its_own_options(place: Path) -> None:
    def result(*options: str) -> bytes:
        assert run("restore", "photos/a [1].png", "-o", "x", "--overwrite", "--sampler", "ddim", *options) is None
        return Path("x/a [1].png").read_bytes()

    plain = result("--steps", "3")
    assert plain == result("--set", "sampler.steps=3")
    assert plain != result("--steps", "2")
    assert plain != result("--steps", "3", "--set", "sampler.eta=1.0")


def test_a_mask_leaves_the_rest_alone(place: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 20:40] = 255
    Image.fromarray(mask).save("mask.png")
    assert run("restore", "photos/a [1].png", "--output", "clean", "--mask", "mask.png") is None
    result = np.asarray(Image.open("clean/a [1].png"))
    assert np.array_equal(result[mask == 0], COFFEE[:40, :60][mask == 0])
    assert not np.array_equal(result[mask > 0], COFFEE[:40, :60][mask > 0])
    # What the photo shows in the hole does not matter.
    holed = COFFEE[:40, :60].copy()
    holed[mask > 0] = 77
    Image.fromarray(holed).save("holed.png")
    assert run("restore", "holed.png", "--output", "clean", "--mask", "mask.png") is None
    assert np.array_equal(np.asarray(Image.open("clean/holed.png")), result)


@pytest.mark.parametrize("stage", [1, 2])
def test_classify_only_names(
    place: Path, restorer_artifact: Path, stage: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("restore", "photos", "--dry-run", "--summary", "dry.jsonl") is None
    assert not Path("outputs/restored").exists()
    capsys.readouterr()
    named = ["--artifact", str(restorer_artifact / "daclip")] if stage == 1 else []
    assert run("classify", "photos", "--summary", "named.jsonl", *named) is None
    assert len([line for line in capsys.readouterr().out.splitlines() if "%" in line]) == 2
    rows = lines(place / "named.jsonl")
    assert {row["status"] for row in rows} == {"classified"}
    # Either stage's artifact and the restorer itself say the same.
    assert [row["probabilities"] for row in rows] == [row["probabilities"] for row in lines(place / "dry.jsonl")]
    assert run("classify", "photos", "--json", *named) is None
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["probabilities"] for row in printed] == [row["probabilities"] for row in rows]


def test_failures_are_counted_and_the_others_restored(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = Path("photos/a [1].png").read_bytes()
    for name in ("bad1.png", "bad2.png", "bad3.png"):
        Path("photos", name).write_bytes(good[: len(good) // 2])
    assert run("restore", "photos", "--output", "clean") == 3
    shown = capsys.readouterr()
    assert shown.err == "error: 3 of 5 photos could not be restored: see the lines above\n"
    assert all(name in shown.out for name in ("bad1.png", "bad2.png", "bad3.png"))
    statuses = [line["status"] for line in lines(place / "clean" / "summary.jsonl")]
    assert sorted(statuses) == ["failed"] * 3 + ["restored"] * 2
    assert all(line["error"] for line in lines(place / "clean" / "summary.jsonl") if line["status"] == "failed")
    assert not list(Path("clean").glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["restore"], ["required: PHOTO"]),
        (["restore", "gone.png"], ["gone.png", "no such file"]),
        (["restore", "gone*.png"], ["matches no file"]),
        (["restore", "photos", "--output", "photos"], ["would be lost"]),
        (["restore", "photos/a [1].png", "--output", "photos"], ["would be overwritten"]),
        (["restore", "photos", "--strength", "2"], ["strength", "got 2"]),
        (["restore", "photos", "--samples", "0"], ["samples", "got 0"]),
        (["restore", "photos", "--samples", "many"], ["samples"]),
        (["restore", "photos", "--degradation", "rainy:-1,hazy:2"], ["rainy"]),
        (["restore", "photos", "--mask", "gone.png"], ["gone.png"]),
        (["restore", "photos", "--mask", "other/a [1].png"], ["one picture for 2 photos"]),
        (["restore", "photos/a [1].png", "--mask", "photos/trip/cat, old.jpg"], ["must have the photo's size"]),
        (["restore", "photos", "--format", "xyz"], ["--format xyz"]),
        (["restore", "photos", "--output"], ["--output", "expected one argument"]),
        (["restore", "photos", "--overlap", "100"], ["overlap", "got 100"]),
        (["restore", "photos", "--tile", "64"], ["tile", "got 64"]),
        (["restore", "photos", "--batch-size", "0"], ["batch size", "got 0"]),
        (["restore", "photos", "--steps", "1000"], ["1000"]),
        (["restore", "photos", "--sampler", "nothing"], ["nothing", "unipc"]),
        (["restore", "photos", "--sampler", "ddim", "--set", "sampler.eat=1"], ["no option 'sampler.eat'"]),
        (["restore", "photos", "--set", "sampler.eta=1"], ["--sampler NAME"]),
        (["restore", "photos", "--degradatoin", "rainy"], ["'--degradatoin'", "did you mean '--degradation'?"]),
        (["restor", "photos"], ["no command 'restor'", "did you mean 'restore'?"]),
        (["restore", "output=clean"], ["output=clean", "no such file"]),
        (["restore", "photos", "--artifact", "nowhere"], ["nowhere"]),
        (["classify", "gone.png"], ["gone.png"]),
        (["info", "photos"], ["not an artifact"]),
    ],
    ids=lambda value: "_".join(value)[:50] if isinstance(value, list) else None,
)
def test_a_mistake_ends_in_one_line(place: Path, arguments: list[str], parts: list[str]) -> None:
    Path("other").mkdir()
    Image.fromarray(CAT[:40, :60]).save("other/a [1].png")
    before = {path: path.read_bytes() for path in Path("photos").rglob("*.*")}
    error = run(*arguments)
    if error == 2:  # each of the two photos was refused
        (error,) = {line["error"].split(": ", 1)[1] for line in lines(Path("outputs/restored/summary.jsonl"))}
        error = f"error: {error}"
    assert isinstance(error, str)
    assert error.startswith("error: ")
    assert "\n" not in error
    for part in parts:
        assert part in error
    assert {path: path.read_bytes() for path in Path("photos").rglob("*.*")} == before


def test_a_bug_costs_one_photo_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Restorer.restore

    def fails(self: Restorer, photo: Any, *arguments: Any, **options: Any) -> Any:
        if photo.width == 60:
            raise RuntimeError("first line\nsecond line")
        return whole(self, photo, *arguments, **options)

    monkeypatch.setattr(Restorer, "restore", fails)
    assert "RuntimeError: first line" in lines_after(place)[0]["error"]
    assert [line["status"] for line in lines_after(place)[:2]] == ["failed", "restored"]


def lines_after(place: Path) -> list[dict[str, Any]]:
    if not Path("clean").exists():
        assert isinstance(run("restore", "photos", "--output", "clean"), str)
    return lines(place / "clean" / "summary.jsonl")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As for each of several photos at once: kernels of more threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_folder_side_by_side_is_the_same_as_one_by_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number in range(5):
        noisy = COFFEE[: 48 + 16 * number, 100:196] + rng.normal(0, 30, (48 + 16 * number, 96, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / "photos" / f"{number}.png")
    (place / "photos" / "broken.png").write_bytes(b"no picture")
    found = []
    for folder, cores in ("one", 1), ("several", 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert "1 of 8 photos could not be restored" in str(run("restore", "photos", "-o", folder))
        found.append([{**line, "seconds": 0} for line in lines(place / folder / "summary.jsonl")])
    one, several = found
    assert [line["photo"] for line in one] == [line["photo"] for line in several]
    for result in (path for path in (place / "one").rglob("*") if path.suffix in (".png", ".jpg")):
        assert result.read_bytes() == (place / "several" / result.relative_to(place / "one")).read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_keeps_what_is_done(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    tried = attempt

    def stops(restorer: Restorer, job: Job, *arguments: Any, **options: Any) -> Any:
        if job.photo.name.startswith("cat"):
            raise KeyboardInterrupt
        return tried(restorer, job, *arguments, **options)

    monkeypatch.setattr("daclip.restoring.batch.attempt", stops)
    monkeypatch.setattr(torch, "get_num_threads", lambda: workers)
    assert run("restore", "photos", "-o", "clean") == 130
    assert "stopped after 1 of 2" in capsys.readouterr().err
    assert [line["status"] for line in lines(place / "clean" / "summary.jsonl")] == ["restored"]


# Parts


def test_collisions_are_found(tmp_path: Path) -> None:
    for name in ("a.gif", "a.png", "b.bmp"):
        Image.fromarray(COFFEE[:8, :8]).save(tmp_path / name)
    names = [tmp_path / name for name in ("a.gif", "a.png", "b.bmp")]
    jobs = plan([str(name) for name in names], tmp_path / "out")
    assert [job.result.name for job in jobs] == ["a.gif.png", "a.png", "b.bmp"]
    with pytest.raises(DaclipError, match="overwritten"):
        plan([str(names[1])], tmp_path)
    (tmp_path / "a.sample2.png").write_bytes(names[1].read_bytes())
    clash = plan([str(names[1]), str(tmp_path / "a.sample2.png")], tmp_path / "out", samples=2)
    assert [job.problem is None for job in clash] == [True, False]  # the others are restored
    assert "becomes" in str(clash[1].problem)


def test_a_photo_under_two_spellings_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COFFEE[:8, :8]).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(plan(["a.png", str(tmp_path / "a.png"), "./a.png"], Path("out"))) == 1


@pytest.mark.parametrize("classes", ["", "rainy:x", {"rainy": 0}, {}, {"rainy": float("nan")}, 3])
def test_senseless_words_are_refused(classes: Any) -> None:
    with pytest.raises(DaclipError, match="degradation"):
        parse_classes(classes)


def test_uncertainty_is_the_standard_deviation() -> None:
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    spread = Uncertainty()
    for image in images:
        spread.add(image)
    assert torch.allclose(spread.map(), images.var(0).mean(0).sqrt(), atol=1e-6)


def test_the_python_api(restorer_artifact: Path) -> None:
    restorer = Restorer.from_pretrained(restorer_artifact, sampler="flow_ode", steps=2, device="cpu", seed=4)
    assert restorer.sampler.nfe == 2
    done = restorer.restore(Image.fromarray(COFFEE[:40, :50]).convert("RGBA"), samples=2)
    assert (done.image.size, done.image.mode) == ((50, 40), "RGBA")
    assert done.degradation == next(iter(done.probabilities))
    assert list(done.probabilities.values()) == sorted(done.probabilities.values(), reverse=True)
    assert done.seed == 4
    assert done.seconds > 0
    assert len(done.samples) == 2
    assert done.uncertainty.shape == (40, 50)
    several = restorer.restore([COFFEE[:40, :50], COFFEE[:30, :20]])
    assert [one.image.shape for one in several] == [(40, 50, 3), (30, 20, 3)]
    assert restorer.restore(np.stack([COFFEE[:40, :50]] * 2)).images.shape == (2, 40, 50, 3)
    told: list[float] = []
    restorer.restore(COFFEE[:40, :50], on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1
    assert restorer.classify(COFFEE[:1, :300])[0].keys() == done.probabilities.keys()
    with pytest.raises(DaclipError, match="no such artifact"):
        Restorer.from_pretrained(restorer_artifact / "nowhere" / "at all")


def test_naming_what_was_recognised_with_certainty_changes_nothing(restorer_artifact: Path) -> None:
    from daclip.restoring.control import steer
    from daclip.types import Conditioning

    restorer = Restorer.from_pretrained(restorer_artifact, device="cpu")
    classes = restorer.vocabulary
    texts = restorer.daclip.clip.encode_text(classes)
    # Embeddings for which the first word is certain, with a part that no text has.
    restorer.daclip.logit_scale.data.fill_(9.0)
    odd = torch.linalg.qr(torch.cat([texts.T, torch.randn(16, 1)], 1))[0][:, -1]
    embedding = 5 * (texts[:1] + 0.1 * odd)
    shares = restorer.daclip.classify(embedding, classes)[0]
    certain = {class_name: float(share) for class_name, share in zip(classes, shares, strict=True) if share > 0}
    same = steer(Conditioning(None, embedding), restorer.daclip, certain, classes).degradation
    assert same is not None
    assert torch.allclose(same, embedding, atol=1e-4)
    other = steer(Conditioning(None, embedding), restorer.daclip, {classes[3]: 1.0}, classes).degradation
    assert other is not None
    assert restorer.daclip.classify(other, classes)[0].argmax() == 3
    assert other.norm() == pytest.approx(float(embedding.norm()), rel=1e-5)


def varied_photos() -> list[Path]:
    """Small files of many kinds in the working folder."""
    small = Image.fromarray(COFFEE[:24, :30])
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (small, {}),
        "alpha.png": (small.convert("RGBA"), {}),
        "palette.png": (small.convert("P"), {"transparency": 3}),
        "deep.png": (Image.fromarray(COFFEE[:24, :30, 0].astype(np.uint16) * 257), {}),
        "turned.jpg": (small, {"exif": exif}),
        "gray.jpg": (small.convert("L"), {}),
        "cmyk.jpg": (small.convert("CMYK"), {}),
        "lossy.webp": (small, {}),
        "alpha.webp": (small.convert("RGBA"), {"lossless": True}),
        "strips.tif": (small, {"compression": "tiff_lzw", "exif": exif}),
        "pages.tiff": (small, {"save_all": True, "append_images": [small, small]}),
        "plain.bmp": (small, {}),
    }
    for name, (image, options) in kinds.items():
        image.save(name, **options)
    return [Path(name) for name in kinds]


def odd_files(folder: Path, originals: list[Path]) -> dict[str, str]:
    """Put what a camera never made into a folder; names of the photos among it, and what must come of each."""
    good = originals[0].read_bytes()
    Path(folder, "folder.png").mkdir()
    Path(folder, "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")  # who opens it waits for ever
    expected = {
        "-rf.png": good,
        "new\nline.png": good,
        "søren 照片 😀.png": good,
        "${oc.env:HOME}.png": good,
        "a=b,c [1].png": good,
        "x" * 200 + ".png": good,
        "UPPER.PNG": good,
        "a jpeg.png": Path("turned.jpg").read_bytes(),
        "appended.png": good + b"tail" * 100,
        "empty.png": None,
        "zeros.jpg": bytes(1000),
        "text.png": b"hello",
        "vector.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "program.png": b"\x7fELF" + bytes(100),
        "twice cut.png": good[: len(good) // 2],
    }
    for name, content in expected.items():
        Path(folder, name).write_bytes(content or b"")
    return {
        name: "restored"
        if content is not None and content[:2] in (good[:2], b"\xff\xd8") and "cut" not in name
        else "failed"
        for name, content in expected.items()
    }


def test_mutated_photos_through_the_command(place: Path) -> None:
    """Every mutated file is restored or named in the summary; nothing else happens."""
    draw = random.Random(0)
    originals = varied_photos()
    Path("fuzz").mkdir()
    odd = odd_files(Path("fuzz"), originals)
    for number in range(FUZZ):
        original = draw.choice(originals)
        content = bytearray(original.read_bytes())
        for _ in range(draw.randint(0, 6)):
            # Headers decide more than pixels.
            last = len(content) if draw.random() < 0.5 else min(64, len(content))
            content[draw.randrange(last)] = draw.randrange(256)
        kept = len(content) if draw.random() < 0.5 else draw.randint(1, len(content))
        Path(f"fuzz/{number:04}{original.suffix}").write_bytes(content[:kept])
    with pytest.MonkeyPatch.context() as patch:
        # A header may be mutated into millions of pixels, which are readable and slow.
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
        status = run("restore", "fuzz", "--output", "clean", "--steps", "1")
    recorded = lines(place / "clean" / "summary.jsonl")
    assert len(recorded) == FUZZ + len(odd)
    failed = [line for line in recorded if line["status"] == "failed"]
    assert {Path(line["photo"]).name: line["status"] for line in recorded if Path(line["photo"]).name in odd} == odd
    assert status == min(len(failed), 125)
    assert 5 < len(failed) < FUZZ - 5
    assert not any("please report" in line["error"] for line in failed)
    assert all(line["photo"] in line["error"] for line in failed)
    restored = {line["results"][0] for line in recorded if line["status"] == "restored"}
    assert restored == {str(path) for path in Path("clean").iterdir() if path.suffix != ".jsonl"}
    for path in restored:
        with Image.open(path) as image:
            image.load()


def test_a_result_that_is_no_number_is_a_failure_of_that_photo(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(sampler: Any, denoiser: Any, photos: Any, *others: Any) -> Any:
        images = sample_photos(sampler, denoiser, photos, *others)
        if photos[0].width == 60:
            images[0][0, 5, 5] = torch.nan
        return images

    monkeypatch.setattr("daclip.restoring.restorer.sample_photos", broken)
    assert "1 of 2 photos could not be restored" in str(run("restore", "photos", "--output", "clean"))
    first, second = lines(place / "clean" / "summary.jsonl")
    assert (first["status"], second["status"]) == ("failed", "restored")
    assert "not a number" in first["error"]
    assert not (place / "clean" / "a [1].png").exists()
