"""``python -m scoresolve``: the command line."""

from .cli import main

main()
