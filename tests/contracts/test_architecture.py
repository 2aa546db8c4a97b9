"""The house's plan: imports point one way, files stay short, configuration libraries stay at the top."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "daclip"

# From low to high. A module may import what its own row or a row above it in this list holds.
ROWS: list[set[str]] = [
    {"errors", "types", "files", "rng", "arithmetic", "trust"},
    {"holes", "pixels", "decoding", "images"},
    {"degradations"},
    {"data"},
    {"metrics"},
    {"training"},
    {"clip", "backbones", "diffusion", "samplers"},
    {"clip.module", "diffusion.module"},
    {"artifacts"},
    {"restoring"},
    {"reporting"},
    {"app"},
    {"config", "commands", "__main__"},
]
MOST_LINES = 400

# What the rebuild has not reached yet; nothing may be added.
LONG: set[str] = set()
UPWARD: set[tuple[str, str]] = set()


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Every import of a file, those inside functions included: its dotted name and, for `from`, what is taken."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)


def _needs(name: str) -> set[str]:
    """The package's own modules that a module imports by name."""
    found = set()
    for parts in _imported(MODULES[name]):
        if parts[0].split(".")[0] != "daclip":
            continue
        inner = ".".join(parts).partition(".")[2]
        # `from daclip.a import b`: the module a.b where there is one, else something that a holds.
        found.add(inner if inner in MODULES else parts[0].partition(".")[2])
    return found - {name, ""}


def _row(name: str) -> int:
    """The row of a module, or that of the room it is in."""
    for wanted in (name, name.partition(".")[0]):
        for number, row in enumerate(ROWS):
            if wanted in row:
                return number
    raise AssertionError(f"{name} belongs to no row")


def test_every_module_belongs_to_a_row() -> None:
    assert all(_row(name) >= 0 for name in MODULES if name)


@pytest.mark.parametrize("name", [name for name in MODULES if name and name != "__main__"])
def test_imports_point_downwards(name: str) -> None:
    upward = {(name, other) for other in _needs(name) if _row(other) > _row(name)}
    assert upward == {pair for pair in UPWARD if pair[0] == name}


def test_there_is_no_import_circle() -> None:
    needs = {name: _needs(name) for name in MODULES}
    while leaves := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in leaves:
            del needs[name]
    assert not needs, f"among these modules there is a circle: {sorted(needs)}"


@pytest.mark.parametrize("name", MODULES)
def test_no_file_is_long(name: str) -> None:
    lines = len(MODULES[name].read_text().splitlines())
    assert (lines > MOST_LINES) == (name in LONG), f"{lines} lines"


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] not in ("commands", "config")])
def test_only_the_top_knows_hydra(name: str) -> None:
    known = {parts for parts in _imported(MODULES[name]) if parts[0].split(".")[0] in ("hydra", "omegaconf")}
    allowed = {("hydra.utils", "instantiate")}
    assert known <= (allowed if name == "artifacts" else set())


def _needs_at_once(name: str) -> set[str]:
    """The package's own modules that an import of this one imports, as far as the top of its file says."""
    top = ast.Module(
        [node for node in ast.parse(MODULES[name].read_text()).body if isinstance(node, ast.ImportFrom)], []
    )
    found = set()
    for node in ast.walk(top):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("daclip."):
            inner = str(node.module).partition(".")[2]
            parents = {inner.rpartition(".")[0]} & MODULES.keys()
            found |= {inner, *parents} | ({f"{inner}.{alias.name}" for alias in node.names} & MODULES.keys())
    return (found & MODULES.keys()) - {name, ""}


def test_restoring_starts_without_the_metrics() -> None:
    reached, left = set[str](), {"restoring.restorer"}
    while left:
        reached |= left
        left = {needed for name in left for needed in _needs_at_once(name)} - reached
    assert len(reached) > 20
    assert not {name for name in reached if name.split(".")[0] in ("metrics", "training", "reporting", "app")}
