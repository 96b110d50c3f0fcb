"""Where the members of a zip archive lie, so that they can be read in pieces.

``torch.save`` writes its archives itself, but they may have been packed again since: other padding, another order,
compressed. So each member's place is what its own local header says, and only plain members are taken.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass

from know.weights.reading import CheckpointError, Pieces

LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # PKZIP's application note, 4.3.7


@dataclass(frozen=True)
class Member:
    """``size`` bytes from ``offset`` on."""

    offset: int
    size: int


def members(pieces: Pieces) -> dict[str, Member]:
    """Every member by its name.

    Raises:
        CheckpointError: one is compressed, encrypted, named twice, or not where the directory says.
        Exception: as ``zipfile`` fails on damaged archives.
    """
    found: dict[str, Member] = {}
    with zipfile.ZipFile(pieces.file) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise CheckpointError(f"{pieces.path}: a TorchScript program: save its state_dict() with torch.save")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise CheckpointError(
                f"{pieces.path}: {entry.filename!r} in it is compressed: unpack and save it anew with torch.save"
            )
        header = pieces.bytes(entry.header_offset, LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise CheckpointError(
                f"{pieces.path}: damaged: {entry.filename!r} is not where the archive's directory says"
            )
        *_, name, extra = LOCAL_HEADER.unpack(header)
        member = Member(entry.header_offset + LOCAL_HEADER.size + name + extra, entry.file_size)
        if entry.filename in found or member.offset + member.size > pieces.size or entry.compress_size != member.size:
            raise CheckpointError(f"{pieces.path}: damaged: {entry.filename!r} is there twice or not whole")
        found[entry.filename] = member
    return found
