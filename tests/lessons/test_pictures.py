"""The pictures of figures: kept while the figure is unchanged, small, and true to the colour."""

import struct
import zlib
from pathlib import Path

import pytest
from builder.errors import BuildError
from builder.pictures import PNG_MIME, add_pictures, committed_pictures
from builder.png import shrink
from nbformat import NotebookNode

from labshop.lab.charts import Sale, before_after
from labshop.lab.renderer import PLOTLY_MIME
from tests.lessons.notebook_parts import code, displayed, notebook


def notebook_with(sold: int) -> NotebookNode:
    figure = before_after([Sale("a run", sold, 100)], title="A sale", caption="One run.")
    return notebook(code("show()", displayed({PLOTLY_MIME: figure.to_plotly_json()})))


def test_an_unchanged_figure_needs_no_chromium(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without any browser an unchanged figure keeps its picture; the control: a changed one
    ends the build with a sentence that says what to install.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    committed = notebook_with(100)
    committed.cells[0].outputs[0].data[PNG_MIME] = "cGljdHVyZQ=="

    same = notebook_with(100)
    add_pictures(same, committed_pictures(committed))
    assert same.cells[0].outputs[0].data[PNG_MIME] == "cGljdHVyZQ=="

    with pytest.raises(BuildError, match="no Chromium to draw"):
        add_pictures(notebook_with(101), committed_pictures(committed))


def test_a_shrunk_picture_shows_the_same_pixels() -> None:
    """Each of the five row filters of PNG is undone, and the palette gives back each colour."""
    width = 40
    rows = [
        b"".join(bytes((x * 6 % 256, y * 50, (x + y) % 7, 255)) for x in range(width))
        for y in range(5)
    ]
    assert _palette_rows(shrink(_rgba_png(rows, width)), width) == [
        b"".join(row[start : start + 3] for start in range(0, len(row), 4)) for row in rows
    ]


def _rgba_png(rows: list[bytes], width: int) -> bytes:
    """Write rows as an RGBA file, row n with filter n (PNG specification, section 9)."""
    filtered = b""
    above = bytes(width * 4)
    for kind, row in enumerate(rows):
        filtered += bytes([kind])
        for index, value in enumerate(row):
            left = row[index - 4] if index >= 4 else 0
            corner = above[index - 4] if index >= 4 else 0
            up = above[index]
            near = min(
                (abs(base - left - up + corner), rank, base)
                for rank, base in enumerate((left, up, corner))
            )[2]
            guess = (0, left, up, (left + up) // 2, near)[kind]
            filtered += bytes([(value - guess) % 256])
        above = row
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _palette_rows(png: bytes, width: int) -> list[bytes]:
    chunks = {}
    offset = 8
    while offset < len(png):
        length, name = struct.unpack_from(">I4s", png, offset)
        chunks[name] = png[offset + 8 : offset + 8 + length]
        offset += 12 + length
    palette = chunks[b"PLTE"]
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = width + 1
    return [
        b"".join(palette[3 * place : 3 * place + 3] for place in raw[start + 1 : start + stride])
        for start in range(0, len(raw), stride)
    ]
