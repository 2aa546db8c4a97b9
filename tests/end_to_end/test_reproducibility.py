"""Same command, same seed, same machine: same bytes; and no job of a process sees the one before it."""

from pathlib import Path

import pytest
from running import TINY, invoke, read

SMOKE_1 = ["experiment=smoke_daclip", *TINY]
SMOKE_2 = ["experiment=smoke_restorer", *TINY]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which three jobs of each stage ran in one process, the third as the first."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Nobody is logged in, and nothing says that wandb is to stay offline.
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            patch.delenv(name, raising=False)
        first = ["daclip.commands.train_daclip", "-m", *SMOKE_1, "logger=wandb", "seed=0,1,0", "hydra.sweep.dir=one"]
        assert invoke(*first, "output=one") is None
        second = [
            "daclip.commands.train_restorer",
            "-m",
            *SMOKE_2,
            "seed=0,1,0",
            "hydra.sweep.dir=two",
        ]
        assert invoke(*second, "output=two", f"daclip={folder}/one/0/artifact") is None
        assert invoke("daclip.commands.evaluate", "artifact=two/0/artifact", "output=score") is None
    return folder


@pytest.mark.parametrize("stage", ["one", "two"])
def test_the_first_and_the_last_job_of_a_process_agree_to_the_byte(place: Path, stage: str) -> None:
    first, other, last = ((place / stage / str(job) / "artifact" / "metrics.json").read_bytes() for job in range(3))
    assert first == last
    assert first != other
    weights = [(place / stage / str(job) / "artifact" / "weights.safetensors").read_bytes() for job in range(3)]
    assert weights[0] == weights[2]
    assert weights[0] != weights[1]


def test_every_job_of_a_process_has_its_own_wandb_run(place: Path) -> None:
    for job in range(3):
        assert len(list((place / "one" / str(job)).glob("wandb/offline-run-*/*.wandb"))) == 1


def test_a_record_says_what_was_run_on_what(place: Path) -> None:
    record = read(place / "two" / "0" / "artifact" / "record.json")
    assert record["seed"] == 0
    assert {"commit", "dirty", "versions", "hardware", "seconds", "finished", "run_folder"} <= set(record)
    assert record["versions"]["wandb"]
    assert record["data"]["train"]["photos"] == 7
    assert record["data"]["validation"]["photos"] == 2
    assert len(record["data"]["train"]["sha256"]) == 16
    score = read(place / "score" / "metrics.json")["record"]
    assert score["config"]["metric"]["psnr"]["_target_"] == "daclip.metrics.image.Psnr"
    assert score["data"]["validation"] == record["data"]["validation"]
