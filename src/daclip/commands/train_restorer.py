"""Train stage 2: `python -m daclip.commands.train_restorer [overrides]`."""

from daclip.commands.train import run


def main() -> None:
    """Entry point."""
    run("restorer")


if __name__ == "__main__":
    main()
