"""Train stage 2: `python -m daclip.commands.train_restorer [overrides]`."""

from functools import partial

from daclip.commands.train import run

main = partial(run, "restorer")

if __name__ == "__main__":
    main()
