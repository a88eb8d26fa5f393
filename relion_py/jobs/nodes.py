"""Node types: what a file in a project is, in the words that RELION 5 writes, and in those of older
releases.

A type is a dotted word such as "ParticleGroupMetadata.star.relion.class2d": what it is, its format, who made
it. A type matches another when it begins with it, so an entry that asks for
"ParticleGroupMetadata.star.relion" is offered every kind of particle file. Source: RELION 5 pipeline_jobs.h
(LABEL_...).
"""

from __future__ import annotations

from dataclasses import dataclass

MOVIES = "MicrographMovieGroupMetadata.star.relion"
MICS = "MicrographGroupMetadata.star.relion"
IMAGES_2D = "Image2DGroupMetadata.star.relion"
MAP = "DensityMap.mrc"
PARTS = "ParticleGroupMetadata.star.relion"
COORDS = "MicrographCoordsGroup.star.relion"
OPTIMISER = "OptimiserData.star.relion"
MASK = "Mask3D.mrc"
HALFMAP = "DensityMap.mrc.halfmap"
RESMAP = "Image3D.mrc.localresmap"
LOGFILE = "LogFile.pdf.relion"
SEQUENCE = "Sequence.fasta"
ATOM_COORDS = "AtomCoords.cif"
POLISH_PARAMS = "ParamsData.txt.relion.polish"
POSTPROCESS = "ProcessData.star.relion.postprocess"

MOCORR_MICS = "MicrographGroupMetadata.star.relion.motioncorr"
MOCORR_LOG = "LogFile.pdf.relion.motioncorr"
CTFFIND_MICS = "MicrographGroupMetadata.star.relion.ctf"
CTFFIND_LOG = "LogFile.pdf.relion.ctffind"
MANPICK_COORDS = "MicrographCoordsGroup.star.relion.manualpick"
MANPICK_COORDS_HELIX = "MicrographCoordsGroup.star.relion.manualpick.helixstartend"
AUTOPICK_COORDS = "MicrographCoordsGroup.star.relion.autopick"
AUTOPICK_LOG = "LogFile.pdf.relion.autopick"
EXTRACT_PARTS_HELIX = "ParticleGroupMetadata.star.relion.helicalsegments"
EXTRACT_COORDS_HELIX = "MicrographCoordsGroup.star.relion.helixstartend"
EXTRACT_COORDS_REEX = "MicrographCoordsGroup.star.relion.reextract"
CLASS2D_PARTS = "ParticleGroupMetadata.star.relion.class2d"
CLASS2D_OPT = "OptimiserData.star.relion.class2d"
SELECT_OPT = "OptimiserData.star.relion.select"
SELECT_CLAVS = "Image2DGroupMetadata.star.relion.classaverages"
SELECT_LOG = "LogFile.pdf.relion.select"
INIMOD_MAP = "DensityMap.mrc.relion.initialmodel"
CLASS3D_OPT = "OptimiserData.star.relion.class3d"
CLASS3D_MAP = "DensityMap.mrc.relion.class3d"
REFINE3D_HALFMAP = "DensityMap.mrc.relion.halfmap.refine3d"
REFINE3D_OPT = "OptimiserData.star.relion.refine3d"
REFINE3D_MAP = "DensityMap.mrc.relion.refine3d"
REFINE3D_PARTS = "ParticleGroupMetadata.star.relion.refine3d"
MULTIBODY_HALFMAP = "DensityMap.mrc.relion.halfmap.multibody"
MULTIBODY_FLEXLOG = "LogFile.pdf.relion.flexanalysis"
MULTIBODY_SEL_PARTS = "ParticleGroupMetadata.star.relion.flexanalysis.eigenselected"
DYNAMIGHT_HALFMAP = "DensityMap.mrc.relion.halfmap.dynamight"
MASKCREATE_MASK = "Mask3D.mrc.relion"
SUBTRACT_SUBTRACTED = "ParticleGroupMetadata.star.relion.subtracted"
LOCRES_RESMAP = "Image3D.mrc.resmap.localresmap"
LOCRES_FILTMAP = "DensityMap.mrc.relion.localresfiltered"
LOCRES_LOG = "LogFile.pdf.relion.localres"
CTFREFINE_PARTS = "ParticleGroupMetadata.star.relion.ctfrefine"
CTFREFINE_ANISOPARTS = "ParticleGroupMetadata.star.relion.anisomagrefine"
CTFREFINE_LOG = "LogFile.pdf.relion.ctfrefine"
POLISH_PARTS = "ParticleGroupMetadata.star.relion.polished"
POLISH_LOG = "LogFile.pdf.relion.polish"
POST_MAP = "DensityMap.mrc.relion.postprocess"
POST_MASKED = "DensityMap.mrc.relion.postprocess.masked"
POST_LOG = "LogFile.pdf.relion.postprocess"

# Releases up to 3.1 wrote numbers (RELION 3.1 pipeline_jobs.h, NODE_...).
NUMBER_TO_TYPE: dict[int, str] = {
    0: MOVIES,
    1: MICS,
    2: COORDS,
    3: PARTS,
    4: PARTS,  # movie particles, until release 2
    5: IMAGES_2D,
    6: MAP,
    7: MASK,
    8: OPTIMISER,  # _model.star; jobs of today take the optimiser
    9: OPTIMISER,
    10: HALFMAP,
    11: MAP,
    12: RESMAP,
    13: LOGFILE,
    14: POSTPROCESS,
    15: POLISH_PARAMS,
}

# Release 4 had its own words for some of today's types.
RELION4_TO_TYPE: dict[str, str] = {
    "MicrographMoviesData.star.relion": MOVIES,
    "MicrographsData.star.relion": MICS,
    "MicrographsCoords.star.relion": COORDS,
    "ParticlesData.star.relion": PARTS,
    "ImagesData.star.relion": IMAGES_2D,
    "ProcessData.star.relion.optimiser": OPTIMISER,
}


@dataclass(frozen=True)
class Node:
    """A file in a project: its path from the project directory, and its type as RELION 5 writes it."""

    path: str
    type: str


def canonical(node_type: str) -> str:
    """The type in RELION 5's words: older words and numbers are translated, others come back unchanged."""
    if node_type.isdecimal() and int(node_type) in NUMBER_TO_TYPE:
        return NUMBER_TO_TYPE[int(node_type)]
    for old, new in RELION4_TO_TYPE.items():
        if node_type == old or node_type.startswith(old + "."):
            return new + node_type[len(old) :]
    return node_type


def matches(node_type: str, wanted: str) -> bool:
    """Whether a node may be used where `wanted` is asked for: every dotted word of `wanted` occurs in it,
    the first two (content and format) in their places.

    Half-maps are "DensityMap.mrc.halfmap" when imported and "DensityMap.mrc.relion.halfmap.refine3d" when
    refined, so the words after the format are looked up in any place.
    """
    have = canonical(node_type).split(".")
    want = canonical(wanted).split(".")
    if have[:2] != want[:2]:
        return False
    return all(word == "relion" or word in have[2:] for word in want[2:])
