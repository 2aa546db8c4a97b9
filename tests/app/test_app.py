"""The web page as programs see it: a real server, real files, hostile requests."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from ranks import free_port
from skimage import data

from daclip.errors import DaclipError

gradio = pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")

# Loaded here and not by the server's thread, in which pytest's rewriting may strike a fault of Python 3.11's parser.
from anyio import open_file  # noqa: E402, F401

from daclip.app.server import launch, page_of  # noqa: E402
from daclip.app.service import Limits  # noqa: E402

LIMITS = Limits(megapixels=0.01, files=50, samples=8, steps=100, classes=200, samplers=("ddim", "posterior"))
COFFEE = np.ascontiguousarray(data.coffee()[:48, :64])


@pytest.fixture(scope="module")
def address(restorer_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = page_of(str(restorer_artifact), LIMITS)
        yield launch(page, "127.0.0.1", free_port(), max_upload_mb=1)
        page.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "cup.png"
    Image.fromarray(COFFEE).save(path)
    return path


def client_of(address: str) -> Any:
    return gradio_client.Client(address, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return client_of(address)


def upload(address: str, name: str, content: bytes) -> str:
    """The server's name for an uploaded file."""
    boundary = "x" * 20
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with urlopen(Request(f"{address}gradio_api/upload", body, kind)) as answer:
        (path,) = json.load(answer)
    return str(path)


def test_a_program_restores_and_classifies(client: Any, photo: Path) -> None:
    files, report = client.predict(gradio_client.handle_file(photo), "rainy", 1.0, 2, api_name="/restore")
    assert [Path(path).name for path in files] == report["results"]
    assert report["results"] == ["cup-restored.png", "cup-restored.sample2.png", "cup-restored.uncertainty.png"]
    assert Image.open(files[0]).size == (64, 48)
    assert report["status"] == "restored"
    probabilities = client.predict(gradio_client.handle_file(photo), api_name="/classify")
    assert probabilities.keys() == report["probabilities"].keys()


def test_a_program_says_what_it_wants(client: Any, photo: Path) -> None:
    given = {"photo": gradio_client.handle_file(photo), "api_name": "/restore"}
    _, report = client.predict(**given, instruction="remove the rain but keep the fog")
    assert report["repaired"] == ["rainy"]
    assert report["left"][0] == "hazy"
    with pytest.raises(Exception, match="'tourists' is nothing that can be repaired here"):
        client.predict(**given, instruction="remove the tourists")


def test_a_program_fills_what_a_mask_marks(client: Any, photo: Path, tmp_path: Path) -> None:
    marked = np.zeros(COFFEE.shape[:2], bool)
    marked[10:30, 20:50] = True
    Image.fromarray(marked).save(tmp_path / "holes.png")
    Image.fromarray(marked[:20]).save(tmp_path / "half.png")
    given = {"photo": gradio_client.handle_file(photo), "api_name": "/restore"}
    files, _ = client.predict(**given, mask=gradio_client.handle_file(tmp_path / "holes.png"))
    restored = np.asarray(Image.open(files[0]))
    assert np.array_equal(restored[~marked], COFFEE[~marked])
    assert not np.array_equal(restored[marked], COFFEE[marked])
    with pytest.raises(Exception, match="must have the photo's size") as caught:
        client.predict(**given, mask=gradio_client.handle_file(tmp_path / "half.png"))
    assert "/" not in str(caught.value)


def test_plain_http_is_enough(address: str, photo: Path) -> None:
    """The commands of docs/app.md, with the standard library in place of curl."""
    path = upload(address, "cup.png", photo.read_bytes())
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    given = json.dumps({"data": [file, "", 1, 1, "as trained", 1, 0, None, "", "1"]}).encode()
    call = f"{address}gradio_api/call/restore"
    with urlopen(Request(call, given, {"Content-Type": "application/json"})) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{call}/{event}") as answer:
        last = answer.read().decode().strip().split("data: ")[-1]
    files, report = json.loads(last)
    assert report["status"] == "restored"
    with urlopen(files[0]["url"]) as answer:
        assert answer.read()[:4] == b"\x89PNG"


def test_requests_at_once_are_all_served(address: str, photo: Path) -> None:
    results: list[Any] = []

    def one(seed: int) -> None:
        given = (gradio_client.handle_file(photo), "", 1.0, 1, "as trained", 1, seed)
        results.append((seed, client_of(address).predict(*given, api_name="/restore")))

    threads = [threading.Thread(target=one, args=(seed % 2,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pictures: dict[int, set[bytes]] = {seed: set() for seed in range(2)}
    for seed, (files, _) in results:
        pictures[seed].add(Path(files[0]).read_bytes())
    assert len(results) == 4
    # Nobody got somebody else's photo.
    assert all(len(found) == 1 for found in pictures.values())
    assert len(set.union(*pictures.values())) == 2


def test_bad_files_and_settings_are_named(address: str, client: Any, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(photo.read_bytes()[:200])
    Image.fromarray(np.zeros((150, 150, 3), np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "text.txt").write_text("no picture", encoding="utf-8")
    for name, part in (("bad.png", "damaged"), ("large.png", "million"), ("text.txt", "Invalid file type")):
        with pytest.raises(Exception, match=part) as caught:
            client.predict(gradio_client.handle_file(tmp_path / name), api_name="/restore")
        assert "/tmp" not in str(caught.value)
    with pytest.raises(Exception, match="samples must lie between"):
        client.predict(gradio_client.handle_file(photo), "", 1.0, 1000, api_name="/restore")
    (tmp_path / "heavy.png").write_bytes(b"\0" * 1_200_000)
    with pytest.raises(Exception, match="maximum file size"):
        client.predict(gradio_client.handle_file(tmp_path / "heavy.png"), api_name="/restore")
    # The server does not rely on its clients.
    with pytest.raises(HTTPError) as refused:
        upload(address, "heavy.png", (tmp_path / "heavy.png").read_bytes())
    assert refused.value.code == 413


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=../../../../etc/passwd",
        "gradio_api/file=%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "gradio_api/file=pyproject.toml",
        "gradio_api/file=http://127.0.0.1:1/x",
        "gradio_api/proxy=http://127.0.0.1:1/x",
        "monitoring/summary",
    ],
)
def test_no_file_of_the_server_can_be_read(address: str, path: str) -> None:
    with pytest.raises(HTTPError) as caught:
        urlopen(address + path)
    assert caught.value.code in (400, 403, 404)


def test_more_files_than_a_batch_are_refused_at_upload(address: str) -> None:
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="{}.png"\r\n\r\nphoto\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for count in (50, 51):
        body = "".join(part.format(number) for number in range(count)) + "--x--\r\n"
        request = Request(f"{address}gradio_api/upload", body.encode(), kind)
        if count == 50:
            with urlopen(request) as answer:
                assert len(json.load(answer)) == 50
            continue
        with pytest.raises(HTTPError) as refused:
            urlopen(request)
        assert refused.value.code == 400
        assert b"at most 50 photos" in refused.value.read()


def test_a_path_or_an_address_is_no_upload(address: str, photo: Path) -> None:
    for path in ("/etc/passwd", str(photo), "http://127.0.0.1:1/x.png"):
        file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        given = json.dumps({"data": [file]}).encode()
        call = f"{address}gradio_api/call/classify"
        with urlopen(Request(call, given, {"Content-Type": "application/json"})) as answer:
            event = json.load(answer)["event_id"]
        with urlopen(f"{call}/{event}") as answer:
            text = answer.read().decode()
        assert "event: error" in text
        assert "rainy" not in text


def test_a_taken_port_is_one_line(address: str, restorer_artifact: Path) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(DaclipError, match="another --port"):
        launch(page_of(str(restorer_artifact), LIMITS), "127.0.0.1", port, 1)
