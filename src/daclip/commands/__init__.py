"""Commands: one file each, `python -m daclip.commands.NAME`."""
