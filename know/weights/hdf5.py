"""HDF5 files that others wrote: whatever is wrong with one is said in a line that names it, before memory is taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from know.weights.limits import SizeError, check


@contextmanager
def opened(path: Path, error: type[ValueError]) -> Iterator[h5py.File]:
    """The file, to be read in the block.

    Raises:
        error: it is missing or damaged, be it found out only in the block. HDF5 has many ways to say so.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except SizeError as size:
        raise error(str(size)) from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as reason:
        if isinstance(reason, error):
            raise
        said = " ".join(str(reason).split())[:200] or type(reason).__name__
        raise error(f"{path}: not a readable HDF5 file: {said}") from None


def array_of(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The array of this name, of which nothing is read yet; None if there is none.

    Raises:
        SizeError: it declares more than it may, or its numbers are in another file.
    """
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        return None
    what = f"{file.filename}: {name}"
    if found.is_virtual or found.external or found.file.filename != file.filename:
        raise SizeError(f"{what}: its numbers are in another file, which is not read")
    check(what, (found.size or 0) * found.dtype.itemsize, found.id.get_storage_size())
    return found
