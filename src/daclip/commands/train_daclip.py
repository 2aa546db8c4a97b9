"""Train stage 1: `python -m daclip.commands.train_daclip [overrides]`."""

from functools import partial

from daclip.commands.train import run

main = partial(run, "daclip")

if __name__ == "__main__":
    main()
