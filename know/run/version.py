"""The package's version, without importing anything else of it."""

from importlib import metadata


def version() -> str:
    """As installed; "unknown" where it is not."""
    try:
        return metadata.version("know")
    except metadata.PackageNotFoundError:
        return "unknown"
