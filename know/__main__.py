"""``python -m know`` is the ``know`` command."""

from know.cli import main

main()
