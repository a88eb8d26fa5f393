"""What RELION writes when a person selects images: STAR files of images, of their particles, and of the
choice itself.

The formats are those of RELION 5 (displayer.cpp, saveSelected, saveSelectedParticles, saveBackupSelection):
``class_averages.star`` is one unnamed table with the classes' rows, ``particles.star`` has the optics table
and the particles of the selected classes, ``backup_selection.star`` has one 0 or 1 per image in the file's
own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.series import read_star

BACKUP_NAME = "backup_selection.star"


def _star() -> Any:
    from relion_py.compute.io import star

    return star


def save_star(path: Path, blocks: dict[str, Any]) -> None:
    """Write a STAR file and the directories above it; DisplayError when that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _star().write(path, blocks)
    except OSError as error:
        raise DisplayError(f"{path} cannot be written: {error.strerror or error}") from error


def save_backup(path: Path, selected: Sequence[int], total: int) -> None:
    """Write ``backup_selection.star``: column rlnSelected, 1 for the images (numbers from 0) in
    ``selected``."""
    chosen = set(selected)
    save_star(path, {"": _star().Table({"rlnSelected": [int(i in chosen) for i in range(total)]})})


def load_backup(path: Path, total: int) -> list[int]:
    """Selected image numbers (from 0) of a ``backup_selection.star``; DisplayError when it is about other
    images."""
    for table in read_star(path).values():
        if "rlnSelected" in table:
            flags = table.ints("rlnSelected")
            if len(flags) != total:
                raise DisplayError(f"{path} is a selection among {len(flags)} images; here are {total}")
            return [int(i) for i in np.flatnonzero(flags > 0)]
    raise DisplayError(f"{path} holds no selection (no column rlnSelected)")


def save_images(path: Path, blocks: Any, table_name: str, rows: Sequence[int]) -> int:
    """Write the chosen ``rows`` (from 0) of a particle, micrograph or movie table with its optics table.

    ``blocks`` is the file that they come from and stays as it is. Returns the number of rows; DisplayError
    when none is chosen.
    """
    if not rows:
        raise DisplayError("No image is selected: click the images that you want to keep, then save again")
    table = blocks[table_name].select(sorted(rows))
    out: dict[str, Any] = {"optics": blocks["optics"]} if "optics" in blocks else {}
    out[table_name] = table
    save_star(path, out)
    return len(rows)


def save_class_averages(path: Path, classes: Any, rows: Sequence[int]) -> int:
    """Write ``class_averages.star``: the selected rows (from 0) of a ``model_classes`` table, in that order
    of classes.

    A column rlnClassNumber is added where the table has none. Returns the number of classes.
    """
    if not rows:
        raise DisplayError("No class is selected: click the classes that you want to keep, then save again")
    table = with_class_numbers(classes).select(sorted(rows))
    save_star(path, {"": table})
    return len(rows)


def with_class_numbers(classes: Any) -> Any:
    """A copy of a ``model_classes`` table with rlnClassNumber (from 1), added where it is absent."""
    table = classes.copy()
    if "rlnClassNumber" not in table:
        table.set("rlnClassNumber", list(range(1, len(table) + 1)))
    return table


def particles_of_classes(
    class_column: NDArray[np.int64], classes: Sequence[int], most_per_class: int = 0, seed: int = 1
) -> list[int]:
    """Rows (from 0) of the particles in ``classes`` (numbers from 1), class after class, in file order
    within each.

    ``most_per_class`` > 0: at most so many of each class, chosen at random (``seed``).
    """
    random = np.random.default_rng(seed)
    rows: list[int] = []
    for number in classes:
        members = np.flatnonzero(class_column == number)
        if most_per_class > 0 and len(members) > most_per_class:
            members = np.sort(random.choice(members, most_per_class, replace=False))
        rows.extend(int(i) for i in members)
    return rows


def class_sizes(data_star: Path) -> dict[int, int]:
    """Number of particles of each class (numbers from 1) in a ``_data.star``; DisplayError where it has no
    classes."""
    for table in read_star(data_star).values():
        if "rlnClassNumber" in table:
            numbers, counts = np.unique(table.ints("rlnClassNumber"), return_counts=True)
            return {int(n): int(c) for n, c in zip(numbers, counts, strict=True)}
    raise DisplayError(f"{data_star} has no particles with class numbers")


def save_particles_of_classes(
    path: Path, data_star: Path, classes: Sequence[int], most_per_class: int = 0, regroup: int = 0
) -> int:
    """Write ``particles.star``: the particles of ``data_star`` in ``classes`` (numbers from 1) with their
    optics table.

    ``regroup`` > 0 joins the micrographs' groups into about so many groups of similar intensity scale
    (needs the model file beside ``data_star``). Returns the number of particles; DisplayError when no class
    is chosen or is empty.
    """
    if not classes:
        raise DisplayError("No class is selected: click the classes that you want to keep, then save again")
    blocks = read_star(data_star)
    name = next((n for n in ("particles", "images", "") if n in blocks and len(blocks[n])), None)
    if name is None or "rlnClassNumber" not in blocks[name]:
        raise DisplayError(f"{data_star} has no particles with class numbers")
    rows = particles_of_classes(blocks[name].ints("rlnClassNumber"), classes, most_per_class)
    if not rows:
        raise DisplayError("The selected classes hold no particles, so there is nothing to save")
    table = blocks[name].select(rows)
    if regroup > 0:
        _regroup(table, data_star, regroup)
    out: dict[str, Any] = {"optics": blocks["optics"]} if "optics" in blocks else {}
    out[name or "particles"] = table
    save_star(path, out)
    return len(rows)


def _regroup(table: Any, data_star: Path, groups: int) -> None:
    """Give the particles new group names: groups ordered by scale, filled until they hold the average number.

    RELION 5, displayer.cpp, regroupSelectedParticles; groups never span optics groups.
    """
    stem = str(data_star).removesuffix("_data.star")
    model = next((p for end in ("_model", "_half1_model") if (p := Path(f"{stem}{end}.star")).is_file()), None)
    if model is None:
        raise DisplayError(f"Regrouping needs the model file beside {data_star}, which is not there")
    average = len(table) // groups
    if average < 10:
        raise DisplayError(f"{len(table)} particles in {groups} groups are fewer than ten each: choose fewer groups")
    if "rlnGroupNumber" not in table:
        raise DisplayError(f"{data_star} has no column rlnGroupNumber, so its particles cannot be regrouped")
    scales = read_star(model)["model_groups"]
    by_scale = np.argsort(scales.floats("rlnGroupScaleCorrection"), kind="stable")  # those alike keep their order
    order = [int(n) for n in scales.ints("rlnGroupNumber")[by_scale]]
    group_of = table.ints("rlnGroupNumber")
    optics_of = table.ints("rlnOpticsGroup") if "rlnOpticsGroup" in table else np.ones(len(table), dtype=np.int64)
    names: dict[int, str] = {}
    width, new = len(str(groups)), 0
    for optics in sorted({int(o) for o in optics_of}):
        filled, new = 0, new + 1
        for group in order:
            members = int(np.count_nonzero((group_of == group) & (optics_of == optics)))
            if members == 0:
                continue
            filled += members
            if filled > average:
                new, filled = new + 1, 0
            names[group] = f"group_{new:0{width}d}"
    table.set("rlnGroupName", [names.get(int(g), f"group_{new:0{width}d}") for g in group_of])
    table.remove("rlnGroupNumber")


def centre_of_mass_shift(image: NDArray[Any]) -> tuple[int, int]:
    """Whole pixels (y, x) by which an image moves so that its centre of mass comes to its centre (size // 2).

    Only positive pixels weigh (RELION 5, multidim_array.h, centerOfMass).
    """
    weight = np.clip(np.asarray(image, dtype=np.float64), 0.0, None)
    total = weight.sum()
    if total <= 0:
        return 0, 0
    ny, nx = weight.shape
    y = float((weight.sum(axis=1) * np.arange(ny)).sum() / total)
    x = float((weight.sum(axis=0) * np.arange(nx)).sum() / total)
    return round(ny // 2 - y), round(nx // 2 - x)


def data_star_of(path: Path) -> Path:
    """The ``_data.star`` that belongs to a model or optimiser file (RELION 5, displayer.cpp, initialise)."""
    name = path.name
    for ending in ("_half1_model.star", "_half2_model.star", "_model.star", "_optimiser.star"):
        if name.endswith(ending):
            return path.with_name(name.removesuffix(ending) + "_data.star")
    raise DisplayError(f"{path} is neither a model nor an optimiser file, so no particles belong to its classes")
