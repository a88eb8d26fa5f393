"""Charts as PDF: the file's structure, and what is drawn."""

from __future__ import annotations

import io
import re
import zlib

import numpy as np

from relion_py.compute.io.charts import Curve, write_charts


def drawn(curves: list[Curve]) -> tuple[bytes, str]:
    """The file, and its page's operators."""
    file = io.BytesIO()
    write_charts(file, "Picking (all): 12 \\ 3", curves, "micrograph")
    content = file.getvalue()
    found = re.search(rb"/Length (\d+) /Filter /FlateDecode >>\nstream\n", content)
    assert found
    return content, zlib.decompress(content[found.end() : found.end() + int(found[1])]).decode("latin-1")


def test_every_object_is_where_the_table_says() -> None:
    content, operators = drawn([Curve("One", np.arange(5.0))])
    assert content.startswith(b"%PDF-1.4\n") and content.endswith(b"%%EOF\n")
    start = int(content.split(b"startxref\n")[1].split()[0])
    assert content[start : start + 5] == b"xref\n"
    places = re.findall(rb"^(\d{10}) 00000 n $", content[start:], re.M)
    assert len(places) == 5
    for number, place in enumerate(places, start=1):
        assert content[int(place) :].startswith(b"%d 0 obj\n" % number)
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
    counts = np.histogram(kept, 28)[0]
    assert np.corrcoef(bars[:, 3], counts[counts > 0])[0, 1] > 1 - 1e-4
    assert len(same) == 1


def test_no_values_draw_nothing() -> None:
    _, operators = drawn([Curve("None", np.zeros(0)), Curve("Not numbers", np.full(2, np.nan))])
    assert "q 1 J" not in operators and " rg" not in operators
