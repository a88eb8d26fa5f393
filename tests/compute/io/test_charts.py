"""Charts as PDF: the file's structure, and what is drawn."""

from __future__ import annotations

import io
import re
import zlib

import numpy as np

from relion_py.compute.io.charts import Axes, Curve, curve_pages, ends, panels, widened
from relion_py.compute.io.pdf import HALF_A4, Page, text_width, write_pages


def written(pages: list[Page]) -> bytes:
    file = io.BytesIO()
    write_pages(file, pages)
    return file.getvalue()


def drawn(curves: list[Curve]) -> tuple[bytes, str]:
    """The file, and its pages' operators."""
    content = written(curve_pages("Picking (all): 12 \\ 3", curves, "micrograph"))
    return content, "\n".join(stream.decode("latin-1") for stream in streams(content))


def streams(content: bytes) -> list[bytes]:
    found = re.finditer(rb"/Length (\d+) /Filter /FlateDecode >>\nstream\n", content)
    return [zlib.decompress(content[one.end() : one.end() + int(one[1])]) for one in found]


def objects(content: bytes) -> list[bytes]:
    """The objects, from where the table at the end says that they are."""
    start = int(content.split(b"startxref\n")[1].split()[0])
    places = [int(place) for place in re.findall(rb"^(\d{10}) 00000 n $", content[start:], re.M)]
    assert content[start : start + 5] == b"xref\n"
    for number, place in enumerate(places, start=1):
        assert content[place:].startswith(b"%d 0 obj\n" % number)
    return [content[place:].split(b"\nendobj")[0] for place in places]


def test_every_object_is_where_the_table_says() -> None:
    content, operators = drawn([Curve("One", np.arange(5.0))])
    assert content.startswith(b"%PDF-1.4\n") and content.endswith(b"%%EOF\n")
    assert len(objects(content)) == 5
    assert r"(Picking \(all\): 12 \\ 3) Tj" in operators and operators.count("(One) Tj") == 2


def test_dots_and_bars_are_the_values() -> None:
    random = np.random.default_rng(0)
    values = random.random(200) * 30
    values[7] = np.nan
    _, operators = drawn([Curve("One", values), Curve("The same", np.full(3, 4.0))])
    dots, few = (
        np.array(re.findall(r"([\d.]+) ([\d.]+) m \1 \2 l", line), float)
        for line in operators.splitlines()
        if line.startswith("q 1 J")
    )
    assert len(dots) == 199 and len(few) == 3
    kept = np.delete(values, 7)
    assert np.corrcoef(dots[:, 1], kept)[0, 1] > 1 - 1e-6
    assert np.corrcoef(dots[:, 0], np.delete(np.arange(200), 7))[0, 1] > 1 - 1e-6
    bars, same = (
        np.array(re.findall(r"([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) re", line), float)
        for line in operators.splitlines()
        if re.match(r"q [\d. ]+ rg", line)
    )
    counts = np.histogram(kept, min(50, int(np.sqrt(199) * 2)))[0]
    assert np.corrcoef(bars[:, 3], counts[counts > 0])[0, 1] > 1 - 1e-4
    assert len(same) == 1


def test_no_values_draw_nothing() -> None:
    _, operators = drawn([Curve("None", np.zeros(0)), Curve("Not numbers", np.full(2, np.nan))])
    assert "q 1 J" not in operators and " rg" not in operators


def test_more_curves_than_a_page_holds_go_on_on_the_next() -> None:
    content, operators = drawn([Curve(f"Number {n}", np.arange(3.0)) for n in range(7)])
    kinds = [one for one in objects(content) if b"/Type /Page " in one]
    assert len(kinds) == 2 and b"/Count 2 " in content
    assert operators.count("(Number 6) Tj") == 2 and operators.count("Picking") == 2


def test_a_picture_is_in_the_file_as_it_is() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    page = Page()
    page.picture(10, 20, 70, 50, grey)
    content = written([page, Page(HALF_A4)])
    assert streams(content)[0] == grey.tobytes()
    (image,) = (number for number, one in enumerate(objects(content), start=1) if b"/Width 7 /Height 5 " in one)
    assert b"/XObject << /I1 %d 0 R >>" % image in content and content.count(b"/XObject <<") == 1
    assert b"q 70.00 0 0 50.00 10.00 20.00 cm /I1 Do Q" in streams(content)[1]
    assert b"[0 0 595 842]" in content and b"[0 0 595 421]" in content


def test_curves_are_broken_where_values_are_missing_and_stay_in_their_frame() -> None:
    page = Page(HALF_A4)
    x, y, width, height = panels(page, 0, 1)[0]
    axes = Axes(page, x, y, width, height, "Two")
    values = np.array([0.0, 1.0, np.nan, 3.0, 4.0, 5.0])
    axes.scale((0.0, 5.0), (0.0, 4.0))
    axes.curve(np.arange(6.0), values, "1 0 0", 2.0, name="first")
    axes.curve(np.arange(6.0), 0 * values + 2, dashed=True)
    text = page.operators().decode()
    clipped = re.search(rf"^q {x:.2f} {y:.2f} {width:.2f} {height:.2f} re W n\n(.*)\nQ$", text, re.M)
    assert clipped and clipped[1].startswith("q 2 w 1 0 0 RG")
    assert clipped[1].count(" m ") == 2 and clipped[1].count(" l") == 3
    places = np.array(re.findall(r"([\d.]+) ([\d.]+) [ml]", clipped[1]), float)
    kept = np.array([0, 1, 3, 4, 5])
    np.testing.assert_allclose(places, np.stack([x + kept / 5 * width, y + kept / 4 * height], axis=1), atol=0.006)
    assert text.count("[3 2] 0 d") == 1
    axes.legend()
    assert page.operators().count(b"(first) Tj") == 1


def test_sides_have_room_for_what_is_drawn() -> None:
    assert ends(np.array([3.0, np.nan, -1.0]), np.array([7.0])) == (-1.0, 7.0)
    assert ends(np.array([4.0, 4.0])) == (3.5, 4.5) and ends(np.zeros(0)) == (0.0, 1.0)
    assert widened((0.0, 10.0)) == (-0.5, 10.5) and widened((0.0, 10.0), below=False) == (0.0, 10.5)


def test_words_are_as_long_as_helvetica_makes_them() -> None:
    """Adobe's metrics: W 944, i 222, a space 278, a digit 556 thousandths."""
    assert text_width("Wi 0", 10) == (944 + 222 + 278 + 556) / 100
    page = Page()
    page.text(100, 50, "Wi 0", 10, middle=True)
    assert b"90.00 50.00 Tm (Wi 0) Tj" in page.operators()
