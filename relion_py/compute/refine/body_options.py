"""What the options of a continuation with bodies may change, and which of them cannot be.

Source: ml_optimiser.cpp, parseContinue and initialiseGeneral.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relion_py.compute.refine.options import RefineOptions

ANEW = frozenset(("healpix_order", "offset_range", "offset_step", "ini_high"))
"""What else may change when a consensus refinement goes on with bodies (ml_optimiser.cpp, parseContinue)."""


def begins(previous: RefineOptions, values: Mapping[str, Any], given: Collection[str]) -> bool:
    """Whether this continuation makes a multi-body refinement of one with a single body."""
    asked = "--multibody_masks" in given and str(values.get("--multibody_masks", "")).strip() not in ("", "None")
    return asked and not previous.has_bodies


def problems(options: RefineOptions, previous: RefineOptions) -> list[str]:
    """Sentences about a multi-body refinement that cannot be."""
    if not options.has_bodies:
        return [
            f"{flag} has no effect without --multibody_masks: add that, or leave {flag} out."
            for flag, given in (
                ("--reconstruct_subtracted_bodies", options.reconstruct_subtracted),
                ("--multibody_norm_overlap", options.normalise_overlap),
            )
            if given
        ]
    found = []
    if not options.auto_refine:
        found.append("--multibody_masks continues a 3D auto-refinement: give the _optimiser.star of one.")
    if options.helix:
        found.append("--multibody_masks is not for helices: continue a refinement without --helix.")
    if options.symmetry.upper() != "C1":
        found.append(
            f"--multibody_masks needs a refinement without symmetry, not one in {options.symmetry}: expand the "
            "particles with relion_particle_symmetry_expand and refine them in C1."
        )
    if previous.has_bodies and options.padding_factor != previous.padding_factor:
        found.append("--pad cannot change when a multi-body refinement is continued: leave it out.")
    for flag, given in (
        ("--gpu", options.gpu != ""),
        ("--relax_sym", options.relax_symmetry != ""),
        ("--local_symmetry", options.has_local_symmetry),
        ("--skip_maximize", options.skip_maximize),
        ("--always_cc", options.always_cc),
    ):
        if given:
            found.append(f"{flag} does not go with --multibody_masks in this release: leave it out.")
    return found
