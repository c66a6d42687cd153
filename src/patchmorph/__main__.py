"""The command ``patchmorph``, and ``python -m patchmorph``."""

import os
import signal

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def main() -> None:
    """Run the command line; Ctrl-C while libraries are loaded ends it at once, for nothing was begun."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from patchmorph import cli  # which loads libraries itself

    cli.main()


if __name__ == "__main__":
    main()
