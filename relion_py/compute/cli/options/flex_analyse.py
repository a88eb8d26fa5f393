"""The options of `relion_flex_analyse` (flex_analyser.cpp, read)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

DESCRIPTION = (
    "Analyses how the bodies of a multi-body refinement move: principal components of the motions of all particles, "
    "maps along them, particles selected by them, and a map of each particle."
)

_GENERAL, _MODELS, _PCA = "General options", "3D model options", "PCA options"

FLAGS: tuple[Flag, ...] = (
    Flag("--data", "value", "", "_data.star of the refinement", _GENERAL),
    Flag("--model", "value", "", "_model.star of the refinement", _GENERAL),
    Flag("--bodies", "value", "", "STAR file with the bodies, that of the refinement", _GENERAL),
    Flag("--o", "value", "analyse", "rootname of all output files", _GENERAL),
    Flag("--3dmodels", "flag", "false", "write a map of each particle", _MODELS),
    Flag("--size_3dmodels", "value", "-1", "box (pixels) of these maps, if smaller than the refinement's", _MODELS),
    Flag("--PCA_orient", "flag", "false", "principal components of the bodies' motions", _PCA),
    Flag("--do_maps", "flag", "false", "maps along the principal components", _PCA),
    Flag("--k", "value", "-1", "components to make maps along (-1: as many as --v asks for)", _PCA),
    Flag("--v", "value", "0.75", "or those that explain this part of the variance (0 to 1)", _PCA),
    Flag("--maps_per_movie", "value", "10", "maps along each component", _PCA),
    Flag("--bins", "value", "100", "bins of the histograms of the particles along the components", _PCA),
    Flag("--select_eigenvalue", "value", "-1", "write the particles selected along this component", _PCA),
    Flag("--select_eigenvalue_min", "value", "-99999.", "above this value", _PCA),
    Flag("--select_eigenvalue_max", "value", "99999.", "and below this one", _PCA),
    Flag("--write_pca_projections", "flag", "false", "write all particles' values along all components", _PCA),
    Flag("--verb", "value", "1", "0 for no messages", _PCA),
)
