"""`python -m daclip.report`."""

from daclip.report import main

main()
