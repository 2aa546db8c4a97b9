"""`python -m daclip COMMAND`."""

from daclip.commands.main import main

main()
