"""Every command in the README and the guides runs: its make target exists and its configuration composes.

Composing is what most commands can do wrong: a misspelt option, a value that moved, a file that is gone. The commands
themselves run from end to end in the other tests of this folder.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from running import invoke

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Make targets that compose nothing.
PLAIN = {"test", "help", "lint", "format", "lock", "wheel"}


def commands(page: Path) -> list[str]:
    """Lines of the page's `sh` blocks, without comments."""
    blocks = [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "sh"]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


ALL = sorted({(page.name, command) for page in PAGES for command in commands(page)})


def test_there_are_commands_on_every_guide() -> None:
    assert len(ALL) > 40
    assert {"README.md", "protocols.md", "reports.md", "cluster.md", "wandb.md", "faq.md"} <= {name for name, _ in ALL}


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{page}-{number}" for number, (page, _) in enumerate(ALL)])
def test_a_command_composes(
    page: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(command, comments=True)
    assert words[0] == "make", f"{page}: only make commands are shown; extend this test for {words[0]}"
    printed = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", ".venv/ready", *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if words[1] in PLAIN:
        return
    (line,) = [line for line in printed.splitlines() if "-m daclip." in line]
    _, _, module, *overrides = shlex.split(line)
    if words[1] == "restore" or page in ("own-degradation.md", "own-backbone.md"):
        overrides = [override for override in overrides if override not in MADE]
    if "-m" in overrides:  # a sweep: its first run
        overrides = [override.split(",")[0] for override in overrides if override != "-m"]
    monkeypatch.chdir(tmp_path)
    assert invoke(module, "--cfg", "job", *overrides) is None, command
    assert capsys.readouterr().out


# What the guides let the reader write first.
MADE = {"degradation=[faded]", "degradation=[noisy,rainy,faded]", "backbone=plain"}


@pytest.mark.parametrize("page", ["own-degradation.md", "own-backbone.md"])
def test_the_parts_that_a_guide_writes_work(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import yaml
    from hydra.utils import instantiate

    from daclip.types import Conditioning

    code, settings = (
        text for language, text in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
        if language in ("python", "yaml")
    )  # fmt: skip
    node = yaml.safe_load(settings)
    node = node if "_target_" in node else next(iter(node.values()))
    name = node["_target_"].split(".")[-2]
    (tmp_path / f"{name}_of_guide.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    node["_target_"] = f"{name}_of_guide.{node['_target_'].split('.')[-1]}"
    made = instantiate(node, _convert_="object")
    photo = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0))
    if page == "own-degradation.md":
        faded = made(photo, [torch.Generator().manual_seed(i) for i in range(2)], 1.0)
        assert faded.shape == photo.shape
        assert float(faded.std()) < float(photo.std())
    else:
        network = made(context_dim=8)
        conditioning = Conditioning(torch.zeros(2, 8), torch.ones(2, 8))
        assert network(photo, photo, torch.tensor([1, 50]), conditioning).shape == photo.shape


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
