"""Make a drawn chart a quarter of its size, without an imaging library.

The problem: Chromium writes charts as full-colour PNG files of 40 to 70 kB, and a notebook that
holds four of them is over its limit.

The idea: a chart has few colours. Undo the row filters (PNG specification, section 9), replace
each pixel by its place in a palette of at most 256 colours, and compress again.

It does not promise to read any PNG: only 8-bit RGBA without interlacing, as Chromium writes it.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGBA = (8, 6, 0, 0, 0)
_PIXEL = 4
_MAX_COLOURS = 256


def shrink(png: bytes) -> bytes:
    """Return the same picture with a palette.

    Args:
        png: an 8-bit RGBA file; transparency is dropped, charts are opaque.

    Raises:
        ValueError: the file is of another kind.
    """
    chunks = list(_chunks(png))
    width, height, *kind = struct.unpack(">IIBBBBB", dict(chunks)[b"IHDR"])
    if tuple(kind) != _RGBA:
        raise ValueError(f"An 8-bit RGBA picture is expected, this is {tuple(kind)}.")
    packed = b"".join(body for name, body in chunks if name == b"IDAT")
    pixels = b"".join(_rows(zlib.decompress(packed), width * _PIXEL))
    indices, palette = _with_palette(pixels)
    rows = b"".join(
        b"\0" + indices[start : start + width] for start in range(0, width * height, width)
    )
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette),
            _chunk(b"IDAT", zlib.compress(rows, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not png.startswith(_SIGNATURE):
        raise ValueError("This is no PNG file.")
    offset = len(_SIGNATURE)
    while offset < len(png):
        length, name = struct.unpack_from(">I4s", png, offset)
        yield name, png[offset + 8 : offset + 8 + length]
        offset += 12 + length


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def _rows(raw: bytes, stride: int) -> Iterator[bytes]:
    above = bytes(stride)
    for start in range(0, len(raw), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        _undo_filter(raw[start], row, above)
        above = bytes(row)
        yield above


def _undo_filter(kind: int, row: bytearray, above: bytes) -> None:
    if kind == 0:
        return
    for index, value in enumerate(row):
        left = row[index - _PIXEL] if index >= _PIXEL else 0
        up = above[index]
        corner = above[index - _PIXEL] if index >= _PIXEL else 0
        guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
        row[index] = (value + guess) & 0xFF


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    return min((left, up, corner), key=lambda near: abs(estimate - near))


def _with_palette(pixels: bytes) -> tuple[bytes, bytes]:
    colours = [pixels[start : start + 3] for start in range(0, len(pixels), _PIXEL)]
    counts = Counter(colours)
    palette = [colour for colour, _ in counts.most_common(_MAX_COLOURS)]
    places = {colour: place for place, colour in enumerate(palette)}
    # What is rare is a shade on the smoothed edge of a letter: its neighbour looks the same.
    for colour in counts.keys() - places.keys():
        places[colour] = _nearest(palette, colour)
    return bytes(places[colour] for colour in colours), b"".join(palette)


def _nearest(palette: list[bytes], colour: bytes) -> int:
    red, green, blue = colour
    gaps = [(r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2 for r, g, b in palette]
    return gaps.index(min(gaps))
