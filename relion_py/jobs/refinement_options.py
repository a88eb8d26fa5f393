"""Options and pages that jobs which run relion_refine share; what becomes of them is in refinement.py."""

from __future__ import annotations

from dataclasses import replace

from . import nodes
from .common import ASYMMETRIC_UNITS, COUNT, GPU_IDS, NOT_NEGATIVE, NUMBER, PERCENT, POSITIVE, USE_GPU
from .conditions import all_of, off, on
from .spec import Page, Row, file, node, slider, text, yes_no

PARTICLES_OR_STACK = node(
    "fn_img",
    "Input images STAR file:",
    nodes.PARTS,
    pattern="STAR files (*.star) \t Image stacks (not recommended, read help!) (*.{spi,mrcs})",
    help="Particles STAR file, with optics groups and CTF parameters.",
    on_continue="inactive",
)

PARTICLES = replace(PARTICLES_OR_STACK, pattern="STAR files (*.star)")

CONTINUE_FROM = file(
    "fn_cont",
    "Continue from here: ",
    pattern="STAR Files (*_optimiser.star)",
    directory="CURRENT_ODIR",
    help="The _optimiser.star of the iteration to go on from.",
    on_continue="only",
)

PARTICLES_ALONE = Page("I/O", (PARTICLES_OR_STACK, CONTINUE_FROM))
"""What a job without a reference begins with."""

REFERENCE_MAP = node(
    "fn_ref",
    "Reference map:",
    nodes.MAP,
    pattern="Image Files (*.{spi,vol,mrc})",
    help=(
        "Starting map (MRC), of the same pixel and box size as the particles or to be rescaled to "
        "them. Start from a low-resolution map; not from an atomic model's."
    ),
    on_continue="inactive",
)

REFERENCE_MASK = node(
    "fn_mask",
    "Reference mask (optional):",
    nodes.MASK,
    pattern="Image Files (*.{spi,vol,msk,mrc})",
    help=(
        "Optional map between 0 (solvent) and 1 (molecule) with soft edges, of the reference's box "
        "and pixel size. Without it a sphere of the particle's diameter is used."
    ),
)

NR_CLASSES = slider(
    "nr_classes",
    "Number of classes:",
    "1",
    1,
    50,
    1,
    help="Number of classes (K).",
    on_continue="inactive",
    limits=COUNT,
)

PARTICLE_DIAMETER = slider(
    "particle_diameter",
    "Mask diameter (A):",
    "200",
    0,
    1000,
    10,
    help=(
        "Diameter (A) of the circular mask around the particles: a little larger than the longest "
        "axis, smaller than the box."
    ),
    limits=POSITIVE,
)

ZERO_MASK = yes_no(
    "do_zero_mask",
    "Mask individual particles with zeros?",
    True,
    help=(
        "Yes sets what is outside the mask to zero; No fills it with noise. Zeros give higher "
        "resolution, noise may be safer for very small or noisy particles."
    ),
    on_continue="inactive",
)

HIGHRES_LIMIT = slider(
    "highres_limit",
    "Limit resolution E-step to (A): ",
    "-1",
    -1,
    20,
    1,
    help=(
        "Alignment uses no resolutions beyond this (A); -1 for all. 10 to 15 helps against "
        "overfitting when features look spiky."
    ),
    on_continue="inactive",
)

BLUSH = yes_no(
    "do_blush",
    "Use Blush regularisation?",
    False,
    help="Regularise with the Blush neural network.",
    on_continue="inactive",
)

DO_ALIGN = yes_no(
    "dont_skip_align",
    "Perform image alignment?",
    True,
    help=("No keeps orientations and centres as they are in the input and only classifies."),
)

OFFSET_RANGE = slider(
    "offset_range",
    "Offset search range (pix):",
    "5",
    0,
    30,
    1,
    help=("Shifts are searched up to this far (pixels) from the last known centre."),
    enabled_when=on("dont_skip_align"),
    limits=NOT_NEGATIVE,
)

OFFSET_STEP = slider(
    "offset_step",
    "Offset search step (pix):",
    "1",
    0.1,
    5,
    0.1,
    help="Distance (pixels) between tested shifts, after two-fold oversampling.",
    enabled_when=on("dont_skip_align"),
    limits=POSITIVE,
)

ALLOW_COARSER = yes_no(
    "allow_coarser",
    "Allow coarser sampling?",
    False,
    help=("Yes lets early iterations sample more coarsely, when the estimated accuracies allow it. Faster."),
    enabled_when=on("dont_skip_align"),
)

SYMMETRY = text(
    "sym_name",
    "Symmetry:",
    "C1",
    help=(
        "Point group: C1, C4, D2, T, O, I ... If in doubt use C1, and apply symmetry once it shows. "
        "Axes are RELION's conventions."
    ),
    on_continue="inactive",
)

_COMPUTE = (
    yes_no(
        "do_parallel_discio",
        "Use parallel disc I/O?",
        True,
        help=(
            "Yes: every MPI process reads its own particles. No: the leader reads all and sends them; "
            "slower, but kinder to a disc that many readers slow down."
        ),
    ),
    slider(
        "nr_pool",
        "Number of pooled particles:",
        "3",
        1,
        16,
        1,
        help=(
            "Particles that a thread handles at a time. A stack is opened once per pool; larger pools "
            "read faster and need more memory."
        ),
        limits=COUNT,
    ),
    yes_no(
        "do_pad1",
        "Skip padding?",
        False,
        help=(
            "No pads references twice for interpolation in Fourier space. Yes saves memory (eight times "
            "less), at some loss of accuracy near the box's edge."
        ),
    ),
    yes_no(
        "do_preread_images",
        "Pre-read all particles into RAM?",
        False,
        help=(
            "Read all particles into memory at the start: number x box x box x 4 bytes for every process "
            "that reads. Fast where it fits."
        ),
    ),
    text(
        "scratch_dir",
        "Copy particles to scratch directory:",
        help=(
            "Local disc to which particles are copied at the start, into relion_volatile/ in this "
            "directory, and read from. Removed after success. Leave empty to read them where they are. "
            "Default: RELION_SCRATCH_DIR."
        ),
        enabled_when=off("do_preread_images"),
        site_default="scratch_dir",
    ),
    yes_no(
        "do_combine_thru_disc",
        "Combine iterations through disc?",
        False,
        help=(
            "Yes: processes combine their sums through files at the end of each iteration, where the "
            "network is unreliable. No: through the network."
        ),
    ),
    USE_GPU,
    GPU_IDS,
)

CTF = Page(
    "CTF",
    (
        yes_no(
            "do_ctf_correction",
            "Do CTF-correction?",
            True,
            help=(
                "Correct for the contrast transfer function inside the refinement. The particles' STAR file "
                "must hold their CTF parameters."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "ctf_intact_first_peak",
            "Ignore CTFs until first peak?",
            False,
            help=(
                "Leave amplitudes up to the CTF's first peak as they are. Try it when classes look blurred "
                "or a refinement gets stuck at low resolution."
            ),
            on_continue="inactive",
            enabled_when=on("do_ctf_correction"),
        ),
    ),
)

_HELIX = on("do_helix")
_SYMMETRY = all_of(_HELIX, on("do_apply_helical_symmetry"))
_SEARCH = all_of(_HELIX, on("do_local_search_helical_symmetry"))

HELIX_3D = Page(
    "Helix",
    (
        yes_no(
            "do_helix",
            "Do helical reconstruction?",
            False,
            help="Yes for helical segments.",
            on_continue="inactive",
        ),
        text(
            "helical_tube_inner_diameter",
            "Tube diameter - inner (A):",
            "-1",
            help="Inner diameter (A) of the tube; negative for none (a filled helix).",
            on_continue="inactive",
            enabled_when=_HELIX,
            limits=NUMBER,
        ),
        text(
            "helical_tube_outer_diameter",
            "Tube diameter - outer (A):",
            "-1",
            help="Outer diameter (A) of the helical tube or filament.",
            on_continue="inactive",
            enabled_when=_HELIX,
            limits=POSITIVE,
        ),
        text(
            "range_rot",
            "Angular search range - rot (deg):",
            "-1",
            help="Local search range (degrees) of the first angle.",
            on_continue="inactive",
            enabled_when=_HELIX,
            limits=NUMBER,
        ),
        text(
            "range_tilt",
            "Angular search range - tilt (deg):",
            "15",
            help=("Local search range (degrees) of the tilt angle around its prior, usually 90 degrees."),
            on_continue="inactive",
            enabled_when=_HELIX,
            limits=NUMBER,
        ),
        text(
            "range_psi",
            "Angular search range - psi (deg):",
            "10",
            help="Local search range (degrees) of the in-plane angle around its prior.",
            on_continue="inactive",
            enabled_when=_HELIX,
            limits=NUMBER,
        ),
        slider(
            "helical_range_distance",
            "Range factor of local averaging:",
            "-1",
            1,
            5,
            0.1,
            help=(
                "Range factor of local averaging along a filament: particles within this distance inform "
                "each other's priors. Negative: none."
            ),
            on_continue="inactive",
            enabled_when=_HELIX,
            limits=NUMBER,
        ),
        yes_no(
            "keep_tilt_prior_fixed",
            "Keep tilt-prior fixed:",
            True,
            help=("Yes keeps the tilt priors as given; No updates them from the last iteration."),
            on_continue="inactive",
            enabled_when=_HELIX,
        ),
        yes_no(
            "do_apply_helical_symmetry",
            "Apply helical symmetry?",
            True,
            help="Yes imposes helical symmetry with the twist and rise below.",
            on_continue="inactive",
            enabled_when=_HELIX,
        ),
        replace(ASYMMETRIC_UNITS, on_continue="inactive", enabled_when=_SYMMETRY),
        text(
            "helical_twist_initial",
            "Initial helical twist (deg):",
            "0",
            help=("Starting twist (degrees) from one subunit to the next; positive is right-handed."),
            on_continue="inactive",
            enabled_when=_SYMMETRY,
            limits=NUMBER,
        ),
        text(
            "helical_rise_initial",
            "Initial helical rise (A):",
            "0",
            help="Starting rise (A) from one subunit to the next.",
            on_continue="inactive",
            enabled_when=_SYMMETRY,
            limits=NUMBER,
        ),
        slider(
            "helical_z_percentage",
            "Central Z length (%):",
            "30",
            5,
            80,
            1,
            help=("Symmetry is imposed and searched in this central part of the box's Z length (%)."),
            on_continue="inactive",
            enabled_when=_SYMMETRY,
            limits=PERCENT,
        ),
        yes_no(
            "do_local_search_helical_symmetry",
            "Do local searches of symmetry?",
            False,
            help="Yes refines twist and rise within the ranges below.",
            on_continue="inactive",
            enabled_when=_HELIX,
        ),
        text(
            "helical_twist_min",
            "Helical twist search (deg) - Min:",
            "0",
            help="Smallest twist (degrees) to try.",
            on_continue="inactive",
            enabled_when=_SEARCH,
            limits=NUMBER,
        ),
        text(
            "helical_twist_max",
            "Helical twist search (deg) - Max:",
            "0",
            help="Largest twist (degrees) to try.",
            on_continue="inactive",
            enabled_when=_SEARCH,
            limits=NUMBER,
        ),
        text(
            "helical_twist_inistep",
            "Helical twist search (deg) - Step:",
            "0",
            help="First step (degrees) of the twist search; 0: chosen from the range.",
            on_continue="inactive",
            enabled_when=_SEARCH,
            limits=NUMBER,
        ),
        text(
            "helical_rise_min",
            "Helical rise search (A) - Min:",
            "0",
            help="Smallest rise (A) to try.",
            on_continue="inactive",
            enabled_when=_SEARCH,
            limits=NUMBER,
        ),
        text(
            "helical_rise_max",
            "Helical rise search (A) - Max:",
            "0",
            help="Largest rise (A) to try.",
            on_continue="inactive",
            enabled_when=_SEARCH,
            limits=NUMBER,
        ),
        text(
            "helical_rise_inistep",
            "Helical rise search (A) - Step:",
            "0",
            help="First step (A) of the rise search; 0: chosen from the range.",
            on_continue="inactive",
            enabled_when=_SEARCH,
            limits=NUMBER,
        ),
    ),
    rows=(
        Row(
            (
                "helical_tube_inner_diameter",
                "helical_tube_outer_diameter",
            ),
            "Tube diameter - inner, outer (A):",
        ),
        Row(
            (
                "range_rot",
                "range_tilt",
                "range_psi",
            ),
            "Angular search range - rot, tilt, psi (deg):",
        ),
        Row(
            (
                "helical_twist_initial",
                "helical_rise_initial",
            ),
            "Initial twist (deg), rise (A):",
        ),
        Row(
            (
                "helical_twist_min",
                "helical_twist_max",
                "helical_twist_inistep",
            ),
            "Twist search - Min, Max, Step (deg):",
        ),
        Row(
            (
                "helical_rise_min",
                "helical_rise_max",
                "helical_rise_inistep",
            ),
            "Rise search - Min, Max, Step (A):",
        ),
    ),
)

REFERENCE = Page(
    "Reference",
    (
        yes_no(
            "ref_correct_greyscale",
            "Ref. map is on absolute greyscale?",
            False,
            help=(
                "No if the reference's grey values are not on RELION's absolute scale (another program's "
                "map): the first iteration then compares by cross-correlation."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "trust_ref_size",
            "Resize reference if needed?",
            True,
            help=(
                "Yes takes the pixel and box size in the map's header as right, and rescales and pads the "
                "map if they differ from the particles'. No stops with an error instead."
            ),
            on_continue="inactive",
        ),
        slider(
            "ini_high",
            "Initial low-pass filter (A):",
            "60",
            0,
            200,
            5,
            help=(
                "The reference is filtered to this resolution (A) first, so that high-resolution features "
                "cannot bias the alignment: 40 to 60 for most. 0 or less: no filter."
            ),
            on_continue="inactive",
            limits=NUMBER,
        ),
        SYMMETRY,
    ),
)


def compute(*, pad: bool) -> Page:
    """Disc access and GPUs of the jobs that run relion_refine; `pad` offers the choice of padding."""
    return Page("Compute", tuple(option for option in _COMPUTE if pad or option.key != "do_pad1"))
