"""The options of `relion_filament_selection` (scripts/filament_selection.in), and those that it refuses."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

DESCRIPTION = (
    "Tells types of filaments apart by the 2D classes of their segments: a dendrogram of the filaments, cut at a "
    "height, gives clusters, each written as a particle file. Lower thresholds give more clusters. Run it again in the "
    "same directory to try another."
)

REFUSED: dict[str, str] = {
    "--regroup": "the particle files keep the groups of the classification; regroup them in a job of their own"
}
"""Option with a value, which the job's form can add -> why it is not done (RELION's program stops at it, too)."""

ALIASES: dict[str, str] = {"--input": "-i", "--output": "-o", "--threshold": "-t", "--classmin": "-c"}
"""Long name -> short name of the same option."""

FLAGS: tuple[Flag, ...] = (
    Flag("-i", "value", "", "optimiser.star of a 2D classification of helical segments (also --input)"),
    Flag("-o", "value", "", "directory for all that is written (also --output)"),
    Flag("-t", "value", "0.8", "height, a mean cosine distance, at which the dendrogram is cut (also --threshold)"),
    Flag(
        "-c",
        "value",
        "-1",
        "clusters of so many segments get a particle file each, all others one together; negative: no files "
        "(also --classmin)",
    ),
    *(Flag(name, "value", "", f"same as {short}", "Long names") for name, short in ALIASES.items()),
    *(Flag(name, "value", "", why, "Options that this release refuses") for name, why in REFUSED.items()),
)
