"""The command ``patchmorph``, and ``python -m patchmorph``."""

import os
import signal

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def main() -> None:
    """Run the command line; Ctrl-C while libraries are loaded ends it at once, for nothing was begun."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products, whose threads wait in a loop
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from patchmorph import cli  # which loads libraries itself

    cli.main()


if __name__ == "__main__":
    main()
