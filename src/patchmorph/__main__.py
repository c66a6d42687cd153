"""``python -m patchmorph``: the command line."""

from patchmorph.cli import main

if __name__ == "__main__":
    main()
