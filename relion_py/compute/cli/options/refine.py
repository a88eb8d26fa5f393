"""The options of `relion_refine`: RELION 5.0.1's names and defaults, and what of them this release does.

A flag that is in the table and not in `NOT_IN_THIS_RELEASE` is honoured. One that is in both is known, so
that nobody is told that it does not exist, and refused with its reason when it is given. To bring a flag
into a release is to delete its line below and to read it in `refine/options.py`.

Names, kinds and defaults: ml_optimiser.cpp, parseInitial and parseContinue.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from relion_py.compute.cli.parser import Flag
from relion_py.compute.errors import UserError

_VALUES = "value"
_SWITCH = "flag"
_OPTIONAL = "optional"

# group -> rows of (name, kind, default, help)
_TABLE: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "General options": (
        ("--i", _VALUES, "", "STAR file with the particles"),
        ("--tomograms", _VALUES, "", "STAR file with tomograms"),
        ("--trajectories", _VALUES, "", "STAR file with trajectories of tomogram motion"),
        ("--ios", _VALUES, "", "STAR file with a tomography optimisation set"),
        ("--o", _VALUES, "", "rootname of all output files, such as Refine3D/job007/run"),
        ("--continue", _VALUES, "", "_optimiser.star of the iteration after which to go on"),
        ("--iter", _VALUES, "-1", "largest number of iterations (-1: no limit of its own)"),
        ("--tau2_fudge", _VALUES, "-1", "factor on the prior's power: above 1 gives the data more weight"),
        ("--tau2_fudge_scheme", _VALUES, "", "how the factor changes during gradient descent"),
        ("--K", _VALUES, "1", "number of classes"),
        ("--particle_diameter", _VALUES, "-1", "diameter (A) of the circular mask on the particles"),
        ("--zero_mask", _SWITCH, "false", "fill the surroundings of particles with zeros, not noise"),
        ("--flatten_solvent", _SWITCH, "false", "mask the references as well"),
        ("--solvent_mask", _VALUES, "None", "map (0 to 1) that masks the references instead of a sphere"),
        ("--solvent_mask2", _VALUES, "None", "second mask, of regions with a density of their own"),
        ("--lowpass_mask", _VALUES, "None", "mask of a region to be low-pass filtered"),
        ("--lowpass", _VALUES, "0", "resolution (A) of that filter"),
        ("--tau", _VALUES, "None", "STAR file with a tau2 spectrum to be kept"),
        ("--local_symmetry", _VALUES, "None", "file with masks and operators of local symmetry"),
        ("--split_random_halves", _SWITCH, "false", "refine two random halves of the particles separately"),
        ("--low_resol_join_halves", _VALUES, "-1", "resolution (A) up to which the halves share their map"),
        ("--center_classes", _SWITCH, "false", "centre class averages on their centre of mass"),
        ("--force_converge", _SWITCH, "false", "when continuing: go straight to the last iteration"),
        ("--multibody_masks", _VALUES, "", "when continuing: STAR file with bodies that move against each other"),
        ("--reconstruct_subtracted_bodies", _SWITCH, "false", "subtract the other bodies before each reconstruction"),
        ("--multibody_norm_overlap", _SWITCH, "false", "divide bodies' masks by their sum where they overlap"),
    ),
    "Initialisation": (
        ("--ref", _VALUES, "None", "reference (MRC; map, or image for 2D), or STAR file of several"),
        ("--denovo_3dref", _SWITCH, "false", "make the first reference from the particles themselves"),
        ("--offset", _VALUES, "10", "first estimate (A) of the standard deviation of the origin offsets"),
        ("--firstiter_cc", _SWITCH, "false", "compare by cross-correlation in the first iteration"),
        ("--ini_high", _VALUES, "-1", "resolution (A) to which the reference is filtered at the start"),
    ),
    "Orientations": (
        ("--oversampling", _VALUES, "1", "times that the steps are halved in the second pass"),
        ("--healpix_order", _VALUES, "2", "HEALPix order of the first angular search: 2 is 15 degrees"),
        ("--psi_step", _VALUES, "-1", "in-plane step (degrees) instead of that of the HEALPix order"),
        ("--limit_tilt", _VALUES, "-91", "limit (degrees) of the tilt: positive keeps side views"),
        ("--sym", _VALUES, "c1", "point group: C1, D2, T, O, I ..."),
        ("--relax_sym", _VALUES, "", "cyclic group whose views local searches look at, too"),
        ("--offset_range", _VALUES, "6", "range (pixels) of the search for origin offsets"),
        ("--offset_step", _VALUES, "2", "step (pixels) of that search"),
        ("--offset_range_x", _VALUES, "-1", "fixed search range (A) along X"),
        ("--offset_range_y", _VALUES, "-1", "fixed search range (A) along Y"),
        ("--offset_range_z", _VALUES, "-1", "fixed search range (A) along Z"),
        ("--helical_offset_step", _VALUES, "-1", "step (A) along a helix"),
        ("--perturb", _VALUES, "0.5", "random rotation and shift of the sampling, in steps (0: none)"),
        ("--auto_refine", _SWITCH, "false", "3D auto-refinement"),
        ("--auto_sampling", _SWITCH, "false", "automatic sampling outside auto-refinement"),
        ("--auto_local_healpix_order", _VALUES, "4", "HEALPix order from which searches are local"),
        ("--sigma_ang", _VALUES, "-1", "standard deviation (degrees) of all three angles in local searches"),
        ("--sigma_rot", _VALUES, "-1", "the same for rot alone"),
        ("--sigma_tilt", _VALUES, "-1", "the same for tilt alone"),
        ("--sigma_psi", _VALUES, "-1", "the same for psi alone"),
        ("--minimum_angular_sampling", _VALUES, "0", "angular step (degrees) to be reached"),
        ("--maximum_angular_sampling", _VALUES, "0", "angular step (degrees) not to go below"),
        ("--skip_align", _SWITCH, "false", "keep the orientations and offsets of the input"),
        ("--skip_rotate", _SWITCH, "false", "keep the orientations of the input"),
        ("--bimodal_psi", _SWITCH, "false", "search psi and psi + 180 degrees"),
    ),
    "Helical reconstruction": (
        ("--helix", _SWITCH, "false", "refine a helix"),
        ("--ignore_helical_symmetry", _SWITCH, "false", "impose no helical symmetry"),
        ("--helical_nr_asu", _VALUES, "1", "asymmetric units per box"),
        ("--helical_twist_initial", _VALUES, "0.", "twist (degrees)"),
        ("--helical_twist_min", _VALUES, "0.", "smallest twist (degrees)"),
        ("--helical_twist_max", _VALUES, "0.", "largest twist (degrees)"),
        ("--helical_twist_inistep", _VALUES, "0.", "first step of the twist (degrees)"),
        ("--helical_rise_initial", _VALUES, "0.", "rise (A)"),
        ("--helical_rise_min", _VALUES, "0.", "smallest rise (A)"),
        ("--helical_rise_max", _VALUES, "0.", "largest rise (A)"),
        ("--helical_rise_inistep", _VALUES, "0.", "first step of the rise (A)"),
        ("--helical_nstart", _VALUES, "1", "number of starts"),
        ("--helical_z_percentage", _VALUES, "0.3", "share of the box length used for the symmetry"),
        ("--helical_inner_diameter", _VALUES, "-1.", "inner diameter (A) of the tube"),
        ("--helical_outer_diameter", _VALUES, "-1.", "outer diameter (A) of the tube"),
        ("--helical_symmetry_search", _SWITCH, "false", "refine twist and rise"),
        ("--helical_sigma_distance", _VALUES, "-1.", "standard deviation of distances along the helix"),
        ("--helical_keep_tilt_prior_fixed", _SWITCH, "false", "keep tilt priors at 90 degrees"),
        ("--helical_exclude_resols", _VALUES, "", "resolutions (A) along the axis to be left out"),
        ("--fourier_mask", _VALUES, "None", "mask of the reference's Fourier transform"),
    ),
    "Corrections": (
        ("--ctf", _SWITCH, "false", "correct for the CTF"),
        ("--pad_ctf", _SWITCH, "false", "calculate CTFs in a larger box"),
        ("--ctf_intact_first_peak", _SWITCH, "false", "correct the CTF only beyond its first peak"),
        ("--ctf_uncorrected_ref", _SWITCH, "false", "the reference is not corrected for CTF amplitudes"),
        ("--ctf_phase_flipped", _SWITCH, "false", "the particles have been phase-flipped"),
        ("--only_flip_phases", _SWITCH, "false", "correct the signs of the CTF only"),
        ("--norm", _SWITCH, "false", "correct each particle's normalisation"),
        ("--scale", _SWITCH, "false", "correct each micrograph's intensity scale"),
        ("--no_norm", _SWITCH, "false", "switch --norm off"),
        ("--no_scale", _SWITCH, "false", "switch --scale off"),
    ),
    "Stochastic Gradient Descent": (
        ("--grad", _SWITCH, "false", "gradient descent instead of expectation maximisation"),
        ("--grad_em_iters", _VALUES, "0", "expectation-maximisation iterations at its end"),
        ("--grad_ini_frac", _VALUES, "0.3", "share of iterations in the first phase"),
        ("--grad_fin_frac", _VALUES, "0.2", "share of iterations in the last phase"),
        ("--grad_min_resol", _VALUES, "20", "resolution (A) to which weak signal is adjusted"),
        ("--grad_ini_resol", _VALUES, "-1", "resolution limit (A) of the first phase"),
        ("--grad_fin_resol", _VALUES, "-1", "resolution limit (A) of the last phase"),
        ("--grad_ini_subset", _VALUES, "-1", "particles per iteration in the first phase"),
        ("--grad_fin_subset", _VALUES, "-1", "particles per iteration in the last phase"),
        ("--mu", _VALUES, "0.9", "momentum"),
        ("--grad_stepsize", _VALUES, "-1", "step size"),
        ("--grad_stepsize_scheme", _VALUES, "", "how the step size changes"),
        ("--grad_write_iter", _VALUES, "10", "iterations between two sets of output files"),
        ("--maxsig", _VALUES, "-1", "poses kept after the first pass (-1: all that matter)"),
        ("--no_init_blobs", _SWITCH, "false", "do not begin with random blobs"),
        ("--som", _SWITCH, "false", "self-organising map"),
        ("--som_ini_nodes", _VALUES, "2", "its first nodes"),
        ("--som_connectivity", _VALUES, "5.0", "its mean number of connections"),
        ("--som_inactivity_threshold", _VALUES, "0.01", "when a node is dropped"),
        ("--som_neighbour_pull", _VALUES, "0.2", "share of the gradient given to neighbours"),
        ("--class_inactivity_threshold", _VALUES, "0", "when a class is replaced"),
    ),
    "Subtomogram averaging": (
        ("--normalised_subtomo", _SWITCH, "false", "subtomograms are normalised by multiplicity"),
        ("--skip_subtomo_multi", _SWITCH, "false", "no correction for multiplicity"),
        ("--ctf3d_not_squared", _SWITCH, "false", "CTF volumes hold no squares"),
        ("--subtomo_multi_thr", _VALUES, "0.01", "multiplicity below which voxels are left out"),
    ),
    "Computation": (
        ("--pool", _VALUES, "1", "particles per thread that are read and treated at a time"),
        ("--j", _VALUES, "1", "threads"),
        ("--dont_combine_weights_via_disc", _SWITCH, "false", "combine the ranks' sums through the network"),
        ("--onthefly_shifts", _SWITCH, "false", "calculate shifted images when they are needed"),
        ("--no_parallel_disc_io", _SWITCH, "false", "let one rank read the particles and send them"),
        ("--preread_images", _SWITCH, "false", "read all particles into memory at the start"),
        ("--scratch_dir", _VALUES, "", "directory on a fast local disc to which particles are copied"),
        ("--keep_free_scratch", _VALUES, "10", "space (GB) to leave free there"),
        ("--reuse_scratch", _SWITCH, "false", "use the particles that an earlier run left there"),
        ("--keep_scratch", _SWITCH, "false", "leave the particles there at the end"),
        ("--fast_subsets", _SWITCH, "false", "use subsets of the particles in the first iterations"),
        ("--cpu", _SWITCH, "false", "compute on the CPU"),
        ("--gpu", _OPTIONAL, "", "compute on GPUs: 0:1 for two ranks, 0,1 for one on two (none: in turn)"),
        ("--free_gpu_memory", _VALUES, "0", "GPU memory (MB) to leave free"),
    ),
    "Expert options": (
        ("--pad", _VALUES, "2", "padding of the references' Fourier transforms (1 or 2)"),
        ("--ref_angpix", _VALUES, "-1.", "pixel size (A) of the reference instead of that in its header"),
        ("--NN", _SWITCH, "false", "nearest-neighbour interpolation in Fourier space"),
        ("--r_min_nn", _VALUES, "10", "shells within which interpolation is linear all the same"),
        ("--verb", _VALUES, "1", "0 for no messages"),
        ("--random_seed", _VALUES, "-1", "seed of all random numbers (-1: from the clock)"),
        ("--coarse_size", _VALUES, "-1", "largest box (pixels) of the first pass"),
        ("--adaptive_fraction", _VALUES, "0.999", "share of the probability that the second pass looks at"),
        ("--maskedge", _VALUES, "5", "width (pixels) of soft mask edges"),
        ("--fix_sigma_noise", _SWITCH, "false", "keep the noise spectra of the start"),
        ("--fix_sigma_offset", _SWITCH, "false", "keep the standard deviation of the origin offsets"),
        ("--min_sigma2_offset", _VALUES, "2.", "smallest variance (A^2) of the origin offsets"),
        ("--incr_size", _VALUES, "10", "shells beyond the current resolution that are used"),
        ("--print_metadata_labels", _SWITCH, "false", "list the STAR labels"),
        ("--print_symmetry_ops", _SWITCH, "false", "list the symmetry operators of --sym and end"),
        ("--strict_highres_exp", _VALUES, "-1", "resolution (A) beyond which alignment does not look"),
        ("--strict_lowres_exp", _VALUES, "-1", "resolution (A) below which alignment does not look"),
        ("--dont_check_norm", _SWITCH, "false", "accept particles that are not normalised"),
        ("--always_cc", _SWITCH, "false", "compare by cross-correlation in all iterations"),
        ("--solvent_correct_fsc", _SWITCH, "false", "correct the FSC for the effect of the solvent mask"),
        ("--skip_maximize", _SWITCH, "false", "write the particles only, no new map"),
        ("--failsafe_threshold", _VALUES, "40", "particles without a weight that stop a run on a GPU"),
        ("--blush", _SWITCH, "false", "Blush regularisation"),
        ("--blush_skip_spectral_trailing", _SWITCH, "false", "Blush without spectral trailing"),
        ("--external_reconstruct", _SWITCH, "false", "reconstruct with another program"),
        ("--auto_iter_max", _VALUES, "999", "iteration at which auto-refinement stops in any case"),
        ("--auto_ignore_angles", _SWITCH, "false", "refine the sampling while orientations still change"),
        ("--auto_resol_angles", _SWITCH, "false", "choose the angular sampling by the resolution"),
        ("--allow_coarser_sampling", _SWITCH, "false", "coarser sampling in the first iterations"),
        ("--trust_ref_size", _SWITCH, "false", "rescale a reference of another pixel size or box"),
        ("--nr_parts_sigma2noise", _VALUES, "-1", "particles per optics group for the first noise spectra"),
        ("--dont_skip_gridding", _SWITCH, "false", "iterative gridding in the reconstruction"),
    ),
}  # fmt: skip

FLAGS: tuple[Flag, ...] = tuple(
    Flag(name=name, kind=kind, default=default, help=help_text, group=group)
    for group, rows in _TABLE.items()
    for name, kind, default, help_text in rows
)
"""The table that `cli/parser.py` reads."""

_FOURIER_MASK = "it compares whole transforms of the references"
_TOMO = "it refines particles from micrographs, not from tomograms"
_SOM = "it makes classes, not self-organising maps"
_UNUSED = "RELION reads and writes this resolution but does not use it"
_SEARCH = "auto-refinement searches all angles and offsets by the HEALPix order and the offset range"

NOT_IN_THIS_RELEASE: Mapping[str, str] = {
    **{row[0]: _TOMO for row in _TABLE["Subtomogram averaging"]},
    **{row[0]: _SOM for row in _TABLE["Stochastic Gradient Descent"] if row[0].startswith("--som")},
    "--grad_min_resol": _UNUSED,
    "--grad_ini_resol": _UNUSED,
    "--grad_fin_resol": _UNUSED,
    "--tomograms": _TOMO,
    "--trajectories": _TOMO,
    "--ios": _TOMO,
    "--offset_range_x": _SEARCH,
    "--offset_range_y": _SEARCH,
    "--offset_range_z": _SEARCH,
    "--fourier_mask": _FOURIER_MASK,
    "--helical_exclude_resols": _FOURIER_MASK,
    "--ctf_uncorrected_ref": "it takes references that show the object, not its images",
    "--pad_ctf": "the reference's own version of it is switched off too",
    "--onthefly_shifts": "shifted particles are never stored, so there is nothing to save",
    "--NN": "it interpolates linearly",
    "--r_min_nn": "it interpolates linearly",
    "--print_metadata_labels": "the labels are in the documentation",
    "--failsafe_threshold": "a run stops at one share of particles without a weight, on CPU and GPU alike",
    "--dont_skip_gridding": "it corrects the interpolation in real space instead",
}
"""Flag -> why this release does not do it; completes the sentence of `refuse_unsupported`."""


def _changed(values: Mapping[str, str | bool], given: Collection[str]) -> Iterator[str]:
    """Flags of this table whose value is not the default; switches that are on."""
    for flag in FLAGS:
        value = values.get(flag.name, flag.default)
        if flag.kind == _SWITCH:
            if value is True or str(value).lower() == "true":
                yield flag.name
        elif (flag.kind == _OPTIONAL and flag.name in given) or not _same(str(value), flag.default):
            yield flag.name


def _same(value: str, default: str) -> bool:
    """Whether two option values are the same text or number ("-1" is "-1.")."""
    if value == default:
        return True
    try:
        return float(value) == float(default)
    except ValueError:
        return False


def refuse_unsupported(values: Mapping[str, str | bool], given: Collection[str] = ()) -> None:
    """Raise UserError when an option is given, with other than its default, that this release does not do.

    `values` maps flag names with their dashes to what the parser made of them; `given` names the flags
    that were on the command line.
    """
    refused = [name for name in _changed(values, given) if name in NOT_IN_THIS_RELEASE]
    if refused:
        raise UserError(
            "; ".join(f"{name} is not in this release: {NOT_IN_THIS_RELEASE[name]}" for name in refused)
            + f"; run without {'it' if len(refused) == 1 else 'them'}, or use RELION for this job."
        )
