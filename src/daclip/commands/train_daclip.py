"""Train stage 1: `python -m daclip.commands.train_daclip [overrides]`."""

from daclip.commands.train import run


def main() -> None:
    """Entry point."""
    run("daclip")


if __name__ == "__main__":
    main()
