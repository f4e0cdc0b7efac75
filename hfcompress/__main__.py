"""`python -m hfcompress` is the command line."""

from hfcompress.cli import main

main()
