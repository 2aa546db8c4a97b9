"""Known vulnerabilities of the locked packages: `python -m daclip.audit [requirements.lock]`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from daclip.errors import DaclipError

__all__ = ["audit", "findings", "main"]

# Run in an environment of its own, so that the tool's packages are none of ours.
TOOL = "pip-audit>=2.9,<3"


def findings(report: dict[str, Any]) -> list[str]:
    """One line for each known vulnerability in pip-audit's JSON report.

    >>> vulnerability = {"id": "CVE-1", "fix_versions": ["1.1"]}
    >>> findings({"dependencies": [{"name": "a", "version": "1.0", "vulns": [vulnerability]}, {"name": "b"}]})
    ['a 1.0: CVE-1, fixed in 1.1']
    """
    lines = []
    for package in report["dependencies"]:
        for found in package.get("vulns", []):
            fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    return lines


def audit(lock: Path, command: list[str]) -> tuple[int, list[str]]:
    """Check every version in a lock file.

    Args:
        lock: A requirements file with exact versions and hashes.
        command: What runs pip-audit.

    Returns:
        Number of packages checked, and one line for each known vulnerability.

    Raises:
        DaclipError: The file is missing, or the vulnerabilities cannot be asked for.
    """
    if not lock.is_file():
        raise DaclipError(f"{lock}: no such lock file; make one with `make lock`")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "report.json")
        options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
        try:
            done = subprocess.run(
                [*command, *options, "--output", str(output), "--requirement", str(lock)],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise DaclipError(f"{command[0]} cannot be run ({error.strerror}); set up with `make setup`") from None
        try:
            report = json.loads(output.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            reason = lines[-1][:200] if lines else f"status {done.returncode}"
            raise DaclipError(
                f"{lock}: not checked, known vulnerabilities could not be asked for ({reason}); this needs a network"
            ) from None
    return len(report["dependencies"]), findings(report)


def main() -> None:
    """Entry point: exit status 1 where anything is known, or nothing could be checked."""
    lock = Path(sys.argv[1] if len(sys.argv) > 1 else "requirements.lock")
    tool = [str(Path(sys.executable).with_name("uv")), "tool", "run", "--from", TOOL, "pip-audit"]
    try:
        checked, lines = audit(lock, tool)
    except DaclipError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.write(f"{checked} packages checked, {len(lines)} known vulnerabilities\n")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
