"""The options of `relion_ctf_refine` (ctf_refiner.cpp and its estimators), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_DEFOCUS = "Defocus fit options"
_BFACTOR = "B-factor options"
_TILT = "Beam-tilt options"
_ABERRATIONS = "Symmetric aberrations options"
_MAGNIFICATION = "Anisotropic magnification options"
_COMPUTE = "Computational options"
_ABSENT = "Options of the reference that this release refuses"

_AMPLITUDE = "references of two contrasts are not fitted (the reference reads the option and does not use it)"
_DEBUG = "it is an aid for developers of the reference"

REFUSED: dict[str, str] = {
    "--a1": _AMPLITUDE,
    "--a2": _AMPLITUDE,
    "--diag": _DEBUG,
    "--debug": _DEBUG,
}
"""Flag -> why this release does not do it."""

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file of particles with poses and halves, from Refine3D", _GENERAL, True),
    Flag("--f", "value", "", "postprocess.star: FSC, and half maps and mask unless they are given", _GENERAL, True),
    Flag("--o", "value", "", "output directory", _GENERAL, True),
    Flag("--m1", "value", "", "reference, half 1", _GENERAL),
    Flag("--m2", "value", "", "reference, half 2", _GENERAL),
    Flag("--angpix_ref", "value", "-1", "pixel size of the references (A); -1: as their headers say", _GENERAL),
    Flag("--mask", "value", "", "mask of the references that --m1 and --m2 name", _GENERAL),
    Flag("--pad", "value", "2", "padding of the references' transforms", _GENERAL),
    Flag("--only_do_unfinished", "flag", "", "only micrographs that lack a result", _GENERAL),
    Flag("--ctf_pad", "flag", "", "cut CTFs of a doubled box in real space, as the particles were", _GENERAL),
    Flag("--fit_defocus", "flag", "", "fit CTF parameters", _DEFOCUS),
    Flag(
        "--fit_mode", "value", "fpmfm",
        "phase shift, defocus, astigmatism, Cs, B-factor: p per particle, m per micrograph, f fixed", _DEFOCUS,
    ),
    Flag("--max_defocus_iters", "value", "100", "most iterations of the fit", _DEFOCUS),
    Flag("--bf0", "flag", "", "search each particle's defocus before the fit", _DEFOCUS),
    Flag("--bf1", "flag", "", "search each particle's defocus after the fit", _DEFOCUS),
    Flag("--bf_only", "flag", "", "search each particle's defocus and fit nothing else", _DEFOCUS),
    Flag("--bf_range", "value", "2000.", "reach of these searches (A)", _DEFOCUS),
    Flag("--legacy_astig", "flag", "", "these searches find each particle's own astigmatism", _DEFOCUS),
    Flag("--kmin_defocus", "value", "30.0", "coarsest resolution of the fit (A)", _DEFOCUS),
    Flag("--fit_bfacs", "flag", "", "fit B-factors and scales of the CTF", _BFACTOR),
    Flag("--bfac_per_mg", "flag", "", "one for each micrograph, not for each particle", _BFACTOR),
    Flag("--bfac_min_B", "value", "-30", "smallest B-factor (A^2)", _BFACTOR),
    Flag("--bfac_max_B", "value", "300", "largest B-factor (A^2)", _BFACTOR),
    Flag("--bfac_min_scale", "value", "0.2", "smallest scale", _BFACTOR),
    Flag("--kmin_bfac", "value", "30.0", "coarsest resolution of the fit (A)", _BFACTOR),
    Flag("--fit_beamtilt", "flag", "", "fit the beam tilt of each optics group", _TILT),
    Flag("--kmin_tilt", "value", "20.0", "coarsest resolution of the fit (A)", _TILT),
    Flag("--odd_aberr_max_n", "value", "0", "degree of odd Zernike polynomials, 3 or more; 0: tilt alone", _TILT),
    Flag("--xr0_t", "value", "-1", "resolution where an excluded ring starts (A)", _TILT),
    Flag("--xr1_t", "value", "-1", "resolution where it ends (A)", _TILT),
    Flag("--fit_aberr", "flag", "", "fit the even aberrations of each optics group", _ABERRATIONS),
    Flag("--kmin_aberr", "value", "20.0", "coarsest resolution of the fit (A)", _ABERRATIONS),
    Flag("--even_aberr_max_n", "value", "4", "degree of even Zernike polynomials", _ABERRATIONS),
    Flag("--xr0_a", "value", "-1", "resolution where an excluded ring starts (A)", _ABERRATIONS),
    Flag("--xr1_a", "value", "-1", "resolution where it ends (A)", _ABERRATIONS),
    Flag("--fit_aniso", "flag", "", "fit the anisotropic magnification of each optics group", _MAGNIFICATION),
    Flag("--kmin_mag", "value", "20.0", "coarsest resolution of the fit (A)", _MAGNIFICATION),
    Flag("--keep_astig", "flag", "", "leave the astigmatism as it is", _MAGNIFICATION),
    Flag("--part_astig", "flag", "", "adapt each particle's astigmatism, not each micrograph's", _MAGNIFICATION),
    Flag("--j", "value", "1", "micrographs at a time", _COMPUTE),
    Flag("--min_MG", "value", "0", "first micrograph, counted from 0 in the order of their names", _COMPUTE),
    Flag("--max_MG", "value", "-1", "last micrograph; -1: all", _COMPUTE),
    Flag("--verb", "value", "1", "0: say nothing", _COMPUTE),
    *(Flag(n, "flag" if n in ("--diag", "--debug") else "value", "", why, _ABSENT) for n, why in REFUSED.items()),
)  # fmt: skip
