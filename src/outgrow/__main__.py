"""`python -m outgrow`: the command line."""

from outgrow.cli import main

main()
