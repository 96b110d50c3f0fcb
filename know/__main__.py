"""``python -m know`` and ``know`` are the same command."""

import sys

from know.run.process import INTERRUPTED, behave


def main() -> None:
    """The command, which takes a moment to load; who interrupts it meanwhile is answered as later."""
    behave()
    try:
        from know.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
