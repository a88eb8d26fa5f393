"""What a refinement was asked to do: the command line, checked, as one frozen dataclass.

`RefineOptions.from_args` makes it for a new run, `RefineOptions.continued` for one that goes on from an
`_optimiser.star`. What contradicts itself in it is told by `option_problems`; checks that need files are in
`checks`. Which options a run accepts at all is the table in `cli/options/refine.py`.

Source of names, defaults and of what may change at a continuation: ml_optimiser.cpp, parseInitial,
parseContinue and initialiseGeneral.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.helix import Range, Tube
from relion_py.compute.refine import body_options, option_problems

Kind = Literal["text", "switch", "off_switch", "number", "integer"]


def _option(
    flag: str,
    kind: Kind,
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unset: float | None = None,
    on_continue: Literal["fixed", "change", "again"] = "fixed",
) -> Any:
    """A field that is read from `flag`.

    `minimum` and `maximum` bound numbers; `unset` is the one number outside of them that means "not given".
    on_continue: "fixed" comes from the run that is continued and may not differ, "change" comes from it
    unless it is given again, "again" is not remembered and always read from the command line.
    """
    metadata = {
        "flag": flag,
        "kind": kind,
        "minimum": minimum,
        "maximum": maximum,
        "unset": unset,
        "on_continue": on_continue,
    }
    return field(default=default, metadata=metadata)


DEFAULT_ITERATIONS = 50
"""Of a classification without --iter (ml_optimiser.cpp, initialiseGeneral)."""
HELICAL_MASK_EDGE = 10
"""Pixels of the masks' edges where tubes are masked and --maskedge is not given (ml_optimiser.cpp, parseInitial)."""
DEFAULT_GRADIENT_ITERATIONS = 200
"""The same along the gradient."""


@dataclass(frozen=True)
class RefineOptions:
    """Options of a 3D auto-refinement, one field per honoured flag; A and degrees unless it says pixels."""

    # files
    particles: str = _option("--i", "text", "")  # STAR file
    output_root: str = _option("--o", "text", "", on_continue="change")  # "Refine3D/job007/run"
    reference: str = _option("--ref", "text", "None")  # map, image, or STAR file of several
    continue_from: str = _option("--continue", "text", "", on_continue="again")  # _optimiser.star
    solvent_mask: str = _option("--solvent_mask", "text", "None", on_continue="change")
    solvent_mask2: str = _option("--solvent_mask2", "text", "None", on_continue="change")
    lowpass_mask: str = _option("--lowpass_mask", "text", "None", on_continue="again")
    lowpass: float = _option("--lowpass", "number", 0.0, minimum=0.0, on_continue="again")  # A
    local_symmetry: str = _option("--local_symmetry", "text", "None")  # masks and operators
    multibody_masks: str = _option("--multibody_masks", "text", "", on_continue="change")  # STAR file; "": one body
    tau_spectrum: str = _option("--tau", "text", "None", on_continue="change")  # STAR file
    pipeline_control: str = _option("--pipeline_control", "text", "", on_continue="again")  # directory

    # what kind of run
    auto_refine: bool = _option("--auto_refine", "switch", False)
    split_random_halves: bool = _option("--split_random_halves", "switch", False)
    classes: int = _option("--K", "integer", 1, minimum=1)
    iterations: int = _option("--iter", "integer", -1, minimum=1, unset=-1, on_continue="change")
    auto_iter_max: int = _option("--auto_iter_max", "integer", 999, minimum=1, on_continue="again")
    force_converge: bool = _option("--force_converge", "switch", False, on_continue="again")
    skip_maximize: bool = _option("--skip_maximize", "switch", False, on_continue="again")
    random_seed: int = _option("--random_seed", "integer", -1, minimum=0, unset=-1)  # -1: from the clock
    reconstruct_subtracted: bool = _option("--reconstruct_subtracted_bodies", "switch", False, on_continue="again")
    normalise_overlap: bool = _option("--multibody_norm_overlap", "switch", False, on_continue="again")
    print_symmetry_ops: bool = _option("--print_symmetry_ops", "switch", False, on_continue="again")  # and end
    verb: int = _option("--verb", "integer", 1, minimum=0, on_continue="again")

    # steps along the gradient
    gradient: bool = _option("--grad", "switch", False)
    denovo_3d: bool = _option("--denovo_3dref", "switch", False)
    gradient_em_iterations: int = _option("--grad_em_iters", "integer", 0, minimum=0, on_continue="change")
    gradient_initial_share: float = _option(
        "--grad_ini_frac", "number", 0.3, minimum=0.001, maximum=0.999, on_continue="change"
    )
    gradient_final_share: float = _option(
        "--grad_fin_frac", "number", 0.2, minimum=0.001, maximum=0.999, on_continue="change"
    )
    gradient_first_subset: int = _option(
        "--grad_ini_subset", "integer", -1, minimum=2, unset=-1, on_continue="change"
    )  # particles
    gradient_last_subset: int = _option("--grad_fin_subset", "integer", -1, minimum=2, unset=-1, on_continue="change")
    gradient_momentum: float = _option("--mu", "number", 0.9, minimum=0.0, maximum=0.999, on_continue="fixed")
    gradient_step: float = _option("--grad_stepsize", "number", -1.0, minimum=1e-6, unset=-1, on_continue="change")
    gradient_step_scheme: str = _option("--grad_stepsize_scheme", "text", "", on_continue="change")
    gradient_write_every: int = _option("--grad_write_iter", "integer", 10, minimum=1, on_continue="change")
    class_inactivity_threshold: float = _option(
        "--class_inactivity_threshold", "number", 0.0, minimum=0.0, maximum=1.0, on_continue="change"
    )

    # maps made by other programs
    blush: bool = _option("--blush", "switch", False, on_continue="change")
    blush_skip_spectral_trailing: bool = _option(
        "--blush_skip_spectral_trailing", "switch", False, on_continue="change"
    )
    external_reconstruct: bool = _option("--external_reconstruct", "switch", False, on_continue="change")

    # reference and prior
    ini_high: float = _option("--ini_high", "number", -1.0, minimum=0.0, unset=-1)  # A; <= 0: no filter
    firstiter_cc: bool = _option("--firstiter_cc", "switch", False)
    always_cc: bool = _option("--always_cc", "switch", False, on_continue="again")
    ref_angpix: float = _option("--ref_angpix", "number", -1.0, minimum=1e-3, unset=-1)  # A/pixel
    trust_ref_size: bool = _option("--trust_ref_size", "switch", False, on_continue="again")
    tau2_fudge: float = _option("--tau2_fudge", "number", -1.0, minimum=1e-6, unset=-1, on_continue="change")
    tau2_fudge_scheme: str = _option("--tau2_fudge_scheme", "text", "", on_continue="change")
    padding_factor: int = _option("--pad", "integer", 2, minimum=1, maximum=2, on_continue="change")
    low_resol_join_halves: float = _option("--low_resol_join_halves", "number", -1.0, minimum=0.0, unset=-1)  # A
    symmetry: str = _option("--sym", "text", "c1")
    relax_symmetry: str = _option("--relax_sym", "text", "", on_continue="again")
    incr_size: int = _option("--incr_size", "integer", 10, minimum=1)  # shells
    center_classes: bool = _option("--center_classes", "switch", False)
    no_init_blobs: bool = _option("--no_init_blobs", "switch", False, on_continue="again")

    # masks
    particle_diameter: float = _option(
        "--particle_diameter", "number", -1.0, minimum=1.0, unset=-1, on_continue="change"
    )  # A; -1: box less the mask edge
    zero_mask: bool = _option("--zero_mask", "switch", False)
    flatten_solvent: bool = _option("--flatten_solvent", "switch", False, on_continue="change")
    solvent_correct_fsc: bool = _option("--solvent_correct_fsc", "switch", False, on_continue="change")
    mask_edge: int = _option("--maskedge", "integer", 5, minimum=0)  # pixels

    # corrections
    ctf: bool = _option("--ctf", "switch", False)
    ctf_intact_first_peak: bool = _option("--ctf_intact_first_peak", "switch", False)
    ctf_phase_flipped: bool = _option("--ctf_phase_flipped", "switch", False)
    only_flip_phases: bool = _option("--only_flip_phases", "switch", False)
    norm: bool = _option("--norm", "switch", False, on_continue="change")
    scale: bool = _option("--scale", "switch", False, on_continue="change")
    no_norm: bool = _option("--no_norm", "off_switch", False, on_continue="again")
    no_scale: bool = _option("--no_scale", "off_switch", False, on_continue="again")

    # sampling
    healpix_order: int = _option("--healpix_order", "integer", 2, minimum=0, maximum=9)
    psi_step: float = _option("--psi_step", "number", -1.0, minimum=0.1, unset=-1)  # degrees; 2D: 10
    limit_tilt: float = _option("--limit_tilt", "number", -91.0, minimum=-91.0, maximum=91.0)  # degrees
    allow_coarser_sampling: bool = _option("--allow_coarser_sampling", "switch", False, on_continue="change")
    skip_align: bool = _option("--skip_align", "switch", False, on_continue="change")
    skip_rotate: bool = _option("--skip_rotate", "switch", False, on_continue="change")
    fast_subsets: bool = _option("--fast_subsets", "switch", False, on_continue="change")
    auto_local_healpix_order: int = _option(
        "--auto_local_healpix_order", "integer", 4, minimum=0, maximum=9, on_continue="change"
    )
    oversampling: int = _option("--oversampling", "integer", 1, minimum=0, maximum=4, on_continue="change")
    offset_range: float = _option("--offset_range", "number", 6.0, minimum=0.0)  # pixels
    offset_step: float = _option("--offset_step", "number", 2.0, minimum=1e-3)  # pixels
    sigma_offset: float = _option("--offset", "number", 10.0, minimum=1e-3, on_continue="change")  # A
    perturb: float = _option("--perturb", "number", 0.5, minimum=0.0, maximum=1.0, on_continue="change")
    sigma_ang: float = _option("--sigma_ang", "number", -1.0, minimum=0.0, unset=-1, on_continue="change")  # degrees
    sigma_rot: float = _option("--sigma_rot", "number", -1.0, minimum=0.0, unset=-1, on_continue="change")
    sigma_tilt: float = _option("--sigma_tilt", "number", -1.0, minimum=0.0, unset=-1, on_continue="change")
    sigma_psi: float = _option("--sigma_psi", "number", -1.0, minimum=0.0, unset=-1, on_continue="change")
    auto_sampling: bool = _option("--auto_sampling", "switch", False, on_continue="change")
    auto_ignore_angles: bool = _option("--auto_ignore_angles", "switch", False, on_continue="again")
    auto_resol_angles: bool = _option("--auto_resol_angles", "switch", False, on_continue="again")
    minimum_angular_sampling: float = _option(
        "--minimum_angular_sampling", "number", 0.0, minimum=0.0, on_continue="again"
    )  # degrees; 0: none
    maximum_angular_sampling: float = _option(
        "--maximum_angular_sampling", "number", 0.0, minimum=0.0, on_continue="again"
    )  # degrees; 0: none

    # helices
    helix: bool = _option("--helix", "switch", False)
    ignore_helical_symmetry: bool = _option("--ignore_helical_symmetry", "switch", False)
    helical_units: int = _option("--helical_nr_asu", "integer", 1, minimum=1)
    helical_twist: float = _option("--helical_twist_initial", "number", 0.0)  # degrees
    helical_twist_min: float = _option("--helical_twist_min", "number", 0.0)
    helical_twist_max: float = _option("--helical_twist_max", "number", 0.0)
    helical_twist_step: float = _option("--helical_twist_inistep", "number", 0.0, minimum=0.0)
    helical_rise: float = _option("--helical_rise_initial", "number", 0.0, minimum=0.0)  # A
    helical_rise_min: float = _option("--helical_rise_min", "number", 0.0, minimum=0.0)
    helical_rise_max: float = _option("--helical_rise_max", "number", 0.0, minimum=0.0)
    helical_rise_step: float = _option("--helical_rise_inistep", "number", 0.0, minimum=0.0)
    helical_starts: int = _option("--helical_nstart", "integer", 1, minimum=1)
    helical_central: float = _option("--helical_z_percentage", "number", 0.3)  # part of the box
    helical_inner_diameter: float = _option("--helical_inner_diameter", "number", -1.0, on_continue="change")  # A
    helical_outer_diameter: float = _option("--helical_outer_diameter", "number", -1.0, on_continue="change")  # A
    helical_symmetry_search: bool = _option("--helical_symmetry_search", "switch", False)
    helical_sigma_distance: float = _option("--helical_sigma_distance", "number", -1.0)  # box lengths
    helical_keep_tilt_prior: bool = _option("--helical_keep_tilt_prior_fixed", "switch", False)
    helical_offset_step: float = _option("--helical_offset_step", "number", -1.0, minimum=1e-3, unset=-1)  # A
    bimodal_psi: bool = _option("--bimodal_psi", "switch", False, on_continue="again")

    # expectation
    adaptive_fraction: float = _option("--adaptive_fraction", "number", 0.999, minimum=1e-3, maximum=1.0)
    maximum_significants: int = _option(
        "--maxsig", "integer", -1, minimum=1, unset=-1, on_continue="change"
    )  # poses; -1: no limit
    max_coarse_size: int = _option("--coarse_size", "integer", -1, minimum=8, unset=-1)  # pixels
    strict_highres_exp: float = _option(
        "--strict_highres_exp", "number", -1.0, minimum=0.0, unset=-1, on_continue="change"
    )  # A
    strict_lowres_exp: float = _option("--strict_lowres_exp", "number", -1.0, minimum=0.0, unset=-1)  # A
    fix_sigma_noise: bool = _option("--fix_sigma_noise", "switch", False)
    fix_sigma_offset: bool = _option("--fix_sigma_offset", "switch", False)
    min_sigma2_offset: float = _option("--min_sigma2_offset", "number", 2.0, minimum=0.0, on_continue="again")  # A^2
    nr_parts_sigma2noise: int = _option("--nr_parts_sigma2noise", "integer", -1, minimum=1, unset=-1)
    dont_check_norm: bool = _option("--dont_check_norm", "switch", False)

    # computation
    threads: int = _option("--j", "integer", 1, minimum=1, on_continue="again")
    pool: int = _option("--pool", "integer", 1, minimum=1, on_continue="again")  # particles per thread
    cpu: bool = _option("--cpu", "switch", False, on_continue="again")  # computes there without --gpu in any case
    gpu: str = _option("--gpu", "text", "", on_continue="again")  # "": not asked for; "auto", or "0:1", "0,1:2,3"
    free_gpu_memory: int = _option("--free_gpu_memory", "integer", 0, minimum=0, on_continue="again")  # MB
    dont_combine_weights_via_disc: bool = _option(
        "--dont_combine_weights_via_disc", "switch", False, on_continue="again"
    )
    no_parallel_disc_io: bool = _option("--no_parallel_disc_io", "switch", False, on_continue="again")
    preread_images: bool = _option("--preread_images", "switch", False, on_continue="again")
    scratch_dir: str = _option("--scratch_dir", "text", "", on_continue="again")
    keep_free_scratch: float = _option("--keep_free_scratch", "number", 10.0, minimum=0.0, on_continue="again")  # GB
    reuse_scratch: bool = _option("--reuse_scratch", "switch", False, on_continue="again")
    keep_scratch: bool = _option("--keep_scratch", "switch", False, on_continue="again")

    # for the head of _optimiser.star
    command_line: str = ""

    # what the file of --ref turned out to be, see `reference.look_at_references`
    reference_names: tuple[str, ...] = ()  # of the maps or images; several from a STAR file, each a class of its own
    reference_dimensions: int = 3  # 2: the classes of a 2D classification

    # ---- what follows from the options ----

    @property
    def max_iterations(self) -> int:
        """Iteration at which the run stops in any case."""
        if not self.auto_refine:
            default = DEFAULT_GRADIENT_ITERATIONS if self.gradient else DEFAULT_ITERATIONS
            return self.iterations if self.iterations > 0 else default
        return min(self.iterations, self.auto_iter_max) if self.iterations > 0 else self.auto_iter_max

    def mask_diameter(self, box: int, pixel_size: float) -> float:
        """Diameter (A) of the particle mask: as given, or the box less the soft edge, or for helices 90 % of it."""
        if self.particle_diameter > 0:
            return self.particle_diameter
        if self.helix:
            return 0.9 * pixel_size * (box - (2 * self.mask_edge if 0.05 * box < self.mask_edge else 0))
        return (box - self.mask_edge) * pixel_size

    def tube(self, box: int, pixel_size: float) -> Tube:
        """Where the helix is in the box."""
        return Tube(
            self.mask_diameter(box, pixel_size),
            self.helical_outer_diameter,
            self.helical_inner_diameter,
            self.helical_central,
        )

    @property
    def masks_tubes(self) -> bool:
        """Whether particles are segments of helices, whose masks are tubes."""
        return self.helical_outer_diameter > 0

    @property
    def helical_symmetry(self) -> bool:
        """Whether offsets along the helix matter within one rise only, and 3D references are made helical."""
        return self.helix and not self.ignore_helical_symmetry

    @property
    def helical_ranges(self) -> tuple[Range, Range]:
        """Limits of twist (degrees) and rise (A); without a search their values alone."""
        if not (self.helical_symmetry_search and self.helical_symmetry):
            twist, rise = (self.helical_twist, self.helical_rise) if self.helical_symmetry else (0.0, 0.0)
            return Range.at(twist), Range.at(rise)
        low, high = sorted((self.helical_twist_min, self.helical_twist_max))
        least, most = sorted((self.helical_rise_min, self.helical_rise_max))
        return Range(low, high, self.helical_twist_step), Range(least, most, self.helical_rise_step)

    @property
    def tau2_fudge_factor(self) -> float:
        return self.tau2_fudge if self.tau2_fudge > 0 else 1.0

    @property
    def do_norm_correction(self) -> bool:
        return self.norm and not self.no_norm

    @property
    def do_scale_correction(self) -> bool:
        """As asked; with a single group there is nothing to correct (ml_optimiser.cpp, initialiseGeneral)."""
        return self.scale and not self.no_scale

    @property
    def combine_weights_via_disc(self) -> bool:
        return not self.dont_combine_weights_via_disc

    @property
    def has_reference(self) -> bool:
        """Whether references were given; without one the classes are 2D and made from the particles."""
        return self.reference not in ("", "None")

    @property
    def keeps_orientations(self) -> bool:
        """Whether particles keep the orientations of the input; offsets are searched unless --skip_align is given."""
        return self.skip_align or self.skip_rotate

    @property
    def is_3d(self) -> bool:
        """Whether references are maps: given ones, or made from the particles with --denovo_3dref."""
        return (self.has_reference and self.reference_dimensions == 3) or self.denovo_3d

    @property
    def grows_classes(self) -> bool:
        """Whether several classes begin as copies of one reference, so that they have to be made to differ."""
        return self.has_reference and self.classes > 1 and len(self.reference_names) < 2

    @property
    def has_local_symmetry(self) -> bool:
        """Whether parts of the maps are averaged with what is like them."""
        return self.local_symmetry not in ("", "None")

    @property
    def has_bodies(self) -> bool:
        """Whether several bodies of the particles are refined against each other."""
        return self.multibody_masks not in ("", "None")

    @property
    def has_solvent_mask(self) -> bool:
        return self.solvent_mask not in ("", "None")

    @property
    def has_level_mask(self) -> bool:
        """Whether a region of the references becomes its own mean."""
        return self.solvent_mask2 not in ("", "None")

    @property
    def has_lowpass_mask(self) -> bool:
        """Whether a region of the references is kept at a lower resolution."""
        return self.lowpass_mask not in ("", "None")

    @property
    def prior_sigmas(self) -> tuple[float, float, float] | None:
        """Standard deviations (degrees) of rot, tilt, psi for local searches, or None when not asked for."""
        if self.sigma_ang > 0:
            return (self.sigma_ang,) * 3
        sigmas = (self.sigma_rot, self.sigma_tilt, self.sigma_psi)
        if max(sigmas) > 0:
            return (max(sigmas[0], 0.0), max(sigmas[1], 0.0), max(sigmas[2], 0.0))
        return None

    @property
    def minimum_particles_sigma2_noise(self) -> int:
        """Particles per optics group for the first noise spectra."""
        return self.nr_parts_sigma2noise if self.nr_parts_sigma2noise > 0 else 1000

    # ---- from the command line ----

    @classmethod
    def from_args(
        cls,
        values: Mapping[str, str | bool | float | int],
        command_line: str = "",
        given: Collection[str] | None = None,
        look_at_references: Callable[[RefineOptions], RefineOptions] | None = None,
    ) -> RefineOptions:
        """Options of a new run.

        `values` maps flag names with their dashes to what was given ("12", True ...); flags that are absent
        take the reference's defaults. `given` names those on the command line, if `values` has others.
        `look_at_references` says what --ref names, see `reference`: without it a reference is taken for a map. Raises
        UserError, one sentence per problem, for everything that can be seen without opening another file.
        """
        options = cls(**_read_fields(values), command_line=command_line)
        if options.masks_tubes and "--maskedge" not in (values if given is None else given):
            options = dataclasses.replace(options, mask_edge=HELICAL_MASK_EDGE)
        if look_at_references is not None:
            options = look_at_references(options)
        problems = list(option_problems.of_new_run(options))
        if problems:
            raise UserError(" ".join(problems))
        return options

    @classmethod
    def continued(
        cls,
        previous: RefineOptions,
        iteration: int,
        values: Mapping[str, str | bool | float | int],
        given: Collection[str],
        command_line: str = "",
    ) -> RefineOptions:
        """Options of a run that goes on after `iteration` of the run that had `previous`.

        `given` names the flags that were on the command line: what is not among them stays as it was, what
        is and cannot change then is a UserError unless it says the same as before. Without a rootname of its
        own the run writes to OLD_ctITER (ml_optimiser.cpp, parseContinue).
        """
        read = _read_fields(values)
        changed: dict[str, Any] = {"command_line": command_line}
        begins = body_options.begins(previous, values, given)
        for option in _OPTIONS:
            flag, when = option.metadata["flag"], option.metadata["on_continue"]
            if when == "again" and option.name in read:
                changed[option.name] = read[option.name]
            elif when == "again":
                changed[option.name] = option.default
            elif flag not in given:
                continue
            elif when == "change" or (begins and option.name in body_options.ANEW):
                changed[option.name] = read[option.name]
            elif not _is_same(read[option.name], getattr(previous, option.name)):
                raise UserError(f"{flag} cannot change when a run is continued: leave it out, or start a new run.")
        changed.update(_switches_that_norm_and_scale_leave(previous, values, given))
        root = changed.get("output_root", previous.output_root)
        if root in ("", previous.output_root) and not (begins and root):
            changed["output_root"] = f"{previous.output_root}_ct{iteration}"
        options = dataclasses.replace(previous, **changed)
        problems = [*body_options.problems(options, previous), *option_problems.of_any_run(options)]
        if problems:
            raise UserError(" ".join(problems))
        return options


_OPTIONS = tuple(f for f in dataclasses.fields(RefineOptions) if "flag" in f.metadata)

HONOURED_FLAGS: frozenset[str] = frozenset(f.metadata["flag"] for f in _OPTIONS)
"""The flags that this dataclass is read from."""


def _is_same(value: Any, before: Any) -> bool:
    """Whether an option says what the run had: numbers as far as a STAR file keeps them, text in any case."""
    if isinstance(value, float):
        return math.isclose(value, before, rel_tol=1e-4)
    return value == before or (isinstance(value, str) and value.lower() == before.lower())


def _switches_that_norm_and_scale_leave(
    previous: RefineOptions, values: Mapping[str, Any], given: Collection[str]
) -> dict[str, bool]:
    """--norm and --scale stay on unless --no_norm or --no_scale say otherwise (parseContinue)."""
    result = {}
    for name in ("norm", "scale"):
        before = getattr(previous, name) and not getattr(previous, f"no_{name}")
        on = before or (f"--{name}" in given and _is_on(values.get(f"--{name}", False)))
        result[name] = on and not _is_on(values.get(f"--no_{name}", False))
        result[f"no_{name}"] = False
    return result


def _is_on(value: Any) -> bool:
    return value is True or str(value).strip().lower() in ("true", "1", "yes")


def _read_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field name -> value for the flags in `values`; UserError lists all that cannot be read."""
    fields: dict[str, Any] = {}
    problems = []
    for option in _OPTIONS:
        flag = option.metadata["flag"]
        if flag not in values:
            continue
        try:
            fields[option.name] = _convert(flag, values[flag], option.metadata)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(" ".join(problems))
    return fields


def _convert(flag: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    kind = metadata["kind"]
    if kind == "text":
        return str(value).strip()
    if kind in ("switch", "off_switch"):
        return _is_on(value)
    noun = "a whole number" if kind == "integer" else "a number"
    try:
        number = float(str(value).strip())
    except ValueError:
        raise UserError(f"{flag} must be {noun}, not '{value}'.") from None
    if not math.isfinite(number) or (kind == "integer" and number != int(number)):
        raise UserError(f"{flag} must be {noun}, not '{value}'.")
    _check_range(flag, number, metadata)
    return int(number) if kind == "integer" else number


def _check_range(flag: str, number: float, metadata: Mapping[str, Any]) -> None:
    minimum, maximum, unset = metadata["minimum"], metadata["maximum"], metadata["unset"]
    if unset is not None and number <= unset:
        return
    if minimum is not None and number < minimum:
        bound = f"at least {minimum:g}" if minimum >= 0.01 or minimum <= 0 else "greater than 0"
        raise UserError(f"{flag} must be {bound}, not {number:g}.")
    if maximum is not None and number > maximum:
        raise UserError(f"{flag} must be at most {maximum:g}, not {number:g}.")
