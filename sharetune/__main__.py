"""Run the command line as ``python -m sharetune``."""

from sharetune.search.commands.cli import main

if __name__ == "__main__":
    main()
