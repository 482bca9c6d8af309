"""Zeros that an H.264 or HEVC encoder cannot have written.

A disk or a download that lost a block leaves zeros, and an arithmetic decoder reads zeros as a picture, without an
error. But within a unit of these codecs three zeros in a row are forbidden (ITU-T H.264 and H.265, section 7.4: an
encoder breaks them up by a 3), so that a run of them tells.
"""

from collections.abc import Iterator

import av

_RUN = bytes(8)  # more than the three that are forbidden: leaves alone what is merely sloppy
_START = b"\0\0\1"
_LENGTH_AT = {"h264": 4, "hevc": 21}  # where MP4's and Matroska's header says how long a unit's length field is


def has_zeros(packet: av.Packet, decoder: av.CodecContext) -> bool:
    """Whether a unit of the packet holds a run of zeros before its end; False for other codecs."""
    if decoder.name not in _LENGTH_AT:
        return False
    data = bytes(packet)
    if _RUN not in data:
        return False
    return any(_RUN in unit.rstrip(b"\0") for unit in _units(data, decoder.extradata or b"", _LENGTH_AT[decoder.name]))


def _units(data: bytes, header: bytes, length_at: int) -> Iterator[bytes]:
    """The packet cut at its start codes (MPEG-TS), or by its length fields where the header has them."""
    if len(header) <= length_at or header[0] != 1:
        yield from data.split(_START)
        return
    size, place = (header[length_at] & 3) + 1, 0
    while place + size <= len(data):
        length = int.from_bytes(data[place : place + size])
        yield data[place + size : place + size + length]
        place += size + length
