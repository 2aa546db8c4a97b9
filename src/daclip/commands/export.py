"""A restorer's networks as graphs for other runtimes."""

from argparse import Namespace
from pathlib import Path

from daclip.commands.options import Parser, entry_point, say
from daclip.errors import DaclipError


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "export",
        "[ARTIFACT] [options]",
        ["daclip export outputs/restorer/latest --format onnx -o exported   # needs pip install 'daclip[export]'"],
    )
    add = made.add_argument
    add("artifact", nargs="?", metavar="ARTIFACT", help="restorer's folder (default: outputs/restorer/latest)")
    add("--format", default="torch", choices=("torch", "onnx"), help="torch.export (.pt2) or ONNX (default: torch)")
    add("-o", "--output", default="outputs/export", metavar="FOLDER", help="new folder (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace the folder if it is there")
    text = "largest difference to the networks themselves, of images in [0, 1] (default: %(default)g)"
    add("--tolerance", type=float, default=1e-3, metavar="X", help=text)
    return made


def export(options: Namespace) -> dict[str, float]:
    """Write the graphs, each compared with its network; returns the largest difference of each one's outputs."""
    from daclip.artifacts import find_artifact
    from daclip.restoring.export import exported, write_export
    from daclip.restoring.restorer import Restorer

    folder = Path(options.output)
    if folder.exists() and not options.overwrite:
        raise DaclipError(f"{folder} is there already; --overwrite replaces it")
    artifact = find_artifact(options.artifact, "outputs/restorer", "make train-restorer")
    # Float32 on the CPU: a runtime chooses its own arithmetic later.
    restorer = Restorer.from_pretrained(artifact, device="cpu", precision="fp32")
    differences = write_export(exported(restorer), restorer, options.format, folder, options.tolerance)
    for name, difference in differences.items():
        say(f"{folder / name}  differs by at most {difference:.1e}")
    return differences


main = entry_point(parser(), export)

if __name__ == "__main__":
    main()
