"""What a stage depends on, by content."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from know.run.store import file_digest


def digests(root: Path, dependencies: Iterable[str]) -> dict[str, str]:
    """The digest of every file of these files and folders, by its path; what Python and editors leave behind is skipped."""
    files = [
        file
        for dependency in dependencies
        for file in ([root / dependency] if (root / dependency).is_file() else sorted((root / dependency).rglob("*")))
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    ]
    return {str(file.relative_to(root)): file_digest(file) for file in files}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The files that were added, removed or changed."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
