"""Options of auto-picking; what becomes of them is in autopick.py."""

from __future__ import annotations

from dataclasses import replace

from . import nodes
from .common import ASYMMETRIC_UNITS, GPU_IDS, NOT_NEGATIVE, NUMBER, POSITIVE, SAMPLING, TUBE_DIAMETER, USE_GPU
from .conditions import all_of, on
from .spec import Limits, Page, Row, choice, file, node, slider, text, yes_no

I_O = Page(
    "I/O",
    (
        node(
            "fn_input_autopick",
            "Input micrographs for autopick:",
            nodes.MICS,
            pattern="Input micrographs (*.{star})",
            help=("Micrographs STAR file, with CTF parameters if references are CTF corrected."),
            on_continue="inactive",
        ),
        slider(
            "angpix",
            "Pixel size in micrographs (A)",
            "-1",
            0.3,
            5,
            0.1,
            help="Pixel size of the micrographs in A; -1 takes it from the STAR file.",
            on_continue="inactive",
        ),
        yes_no(
            "do_refs",
            "Use reference-based template-matching?",
            False,
            help=("Find particles by comparison with 2D class averages or projections of a map."),
            on_continue="inactive",
        ),
        yes_no(
            "do_log",
            "OR: use Laplacian-of-Gaussian?",
            False,
            help=("Find blobs of about the right size with a Laplacian-of-Gaussian filter; needs no reference."),
            on_continue="inactive",
        ),
        yes_no(
            "do_topaz",
            "OR: use Topaz?",
            False,
            help=("Find particles with the neural network Topaz, which must be installed."),
            on_continue="inactive",
        ),
        yes_no(
            "continue_manual",
            "OR: continue manually?",
            False,
            help=("When continuing: open the picks in the manual picker instead of picking the rest."),
            on_continue="only",
        ),
    ),
)

LAPLACIAN = Page(
    "Laplacian",
    (
        slider(
            "log_diam_min",
            "Min. diameter for LoG filter (A)",
            "200",
            50,
            500,
            10,
            help="Smallest particle diameter (A): the smallest one from any side.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        slider(
            "log_diam_max",
            "Max. diameter for LoG filter (A)",
            "250",
            50,
            500,
            10,
            help="Largest particle diameter (A): the largest one from any side.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        yes_no(
            "log_invert",
            "Are the particles white?",
            False,
            help="Yes if particles are white on black.",
            on_continue="inactive",
        ),
        slider(
            "log_maxres",
            "Maximum resolution to consider (A)",
            "20",
            10,
            100,
            5,
            help="Micrographs are filtered to this resolution (A) first.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        slider(
            "log_adjust_thr",
            "Adjust default threshold (stddev):",
            "0",
            -1,
            1,
            0.05,
            help=(
                "Raises the default threshold by this many standard deviations: above 0 picks fewer, below 0 "
                "more particles."
            ),
        ),
        slider(
            "log_upper_thr",
            "Upper threshold (stddev):",
            "999",
            0,
            10,
            0.5,
            help=(
                "Discard picks with more than this many standard deviations above the mean, such as ice; 999 for none."
            ),
        ),
    ),
)

TOPAZ = Page(
    "Topaz",
    (
        text(
            "fn_topaz_exe",
            "Topaz executable:",
            "relion_python_topaz",
            help="The Topaz program, or the wrapper that starts it.",
            on_continue="inactive",
            executable=True,
        ),
        slider(
            "topaz_particle_diameter",
            "Particle diameter (A) ",
            "-1",
            0,
            2000,
            20,
            help=(
                "Particle diameter in A; micrographs are shrunk so that Topaz's network covers it. -1 leaves "
                "it to Topaz."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_topaz_train",
            "Perform topaz training?",
            False,
            help="Train a network on particles picked before.",
            on_continue="inactive",
        ),
        slider(
            "topaz_nr_particles",
            "Nr of particles per micrograph: ",
            "-1",
            0,
            2000,
            20,
            help=("Expected number of particles in a micrograph; it need not be exact. -1 leaves it to Topaz."),
            on_continue="inactive",
            enabled_when=on("do_topaz_train"),
            limits=NUMBER,
        ),
        node(
            "topaz_train_picks",
            "Input picked coordinates for training:",
            nodes.COORDS,
            pattern="Input micrographs (*.{star})",
            help="Picked coordinates to train with.",
            on_continue="inactive",
            enabled_when=on("do_topaz_train"),
        ),
        yes_no(
            "do_topaz_train_parts",
            "OR train on a set of particles? ",
            False,
            help=("Train with the particles of a STAR file, such as selected class members, instead of coordinates."),
            on_continue="inactive",
            enabled_when=on("do_topaz_train"),
        ),
        node(
            "topaz_train_parts",
            "Particles STAR file for training: ",
            nodes.PARTS,
            pattern="Input STAR file (*.{star})",
            help="Particles STAR file to train with.",
            on_continue="inactive",
            enabled_when=all_of(on("do_topaz_train"), on("do_topaz_train_parts")),
        ),
        yes_no(
            "do_topaz_pick",
            "Perform topaz picking?",
            False,
            help="Pick with a trained network.",
            on_continue="inactive",
        ),
        file(
            "topaz_model",
            "Trained topaz model: ",
            pattern="SAV Files (*.sav)",
            help="A network trained before (.sav); empty takes Topaz's general one.",
            on_continue="inactive",
            enabled_when=on("do_topaz_pick"),
        ),
        yes_no(
            "do_topaz_filaments",
            "Pick filaments?",
            False,
            help="Pick filaments, with the modified Topaz that finds lines.",
            on_continue="inactive",
            enabled_when=on("do_topaz_pick"),
        ),
        text(
            "topaz_filament_threshold",
            "Threshold:",
            "-5",
            help="Threshold for filaments; the lower, the more are found.",
            on_continue="inactive",
            enabled_when=all_of(on("do_topaz_pick"), on("do_topaz_filaments")),
            limits=NUMBER,
        ),
        text(
            "topaz_hough_length",
            "Hough length (A):",
            "-1",
            help=("Length (A) of line segments in the Hough transform; -1 for the default."),
            on_continue="inactive",
            enabled_when=all_of(on("do_topaz_pick"), on("do_topaz_filaments")),
            limits=NUMBER,
        ),
        text(
            "topaz_other_args",
            "Additional topaz arguments:",
            help="More arguments for Topaz.",
            on_continue="inactive",
        ),
    ),
    rows=(
        Row(
            (
                "topaz_filament_threshold",
                "topaz_hough_length",
            ),
            "Threshold, Hough length (A)",
        ),
    ),
)

REFERENCES = Page(
    "References",
    (
        node(
            "fn_refs_autopick",
            "2D references:",
            nodes.IMAGES_2D,
            pattern="Input references (*.{star,mrcs})",
            help=("2D references, such as selected class averages, on RELION's grey scale."),
            on_continue="inactive",
        ),
        yes_no(
            "do_ref3d",
            "OR: provide a 3D reference?",
            False,
            help="Yes projects a map to make the references.",
            on_continue="inactive",
        ),
        node(
            "fn_ref3d_autopick",
            "3D reference:",
            nodes.MAP,
            pattern="Input reference (*.{mrc})",
            help="The map (MRC) to project.",
            on_continue="inactive",
            enabled_when=on("do_ref3d"),
        ),
        text(
            "ref3d_symmetry",
            "Symmetry:",
            "C1",
            help="Point group of the map, so that only different views are projected.",
            on_continue="inactive",
            enabled_when=on("do_ref3d"),
        ),
        choice(
            "ref3d_sampling",
            "3D angular sampling:",
            SAMPLING,
            "30 degrees",
            help="Angle between the projections. 30 degrees is enough for most.",
            on_continue="inactive",
            enabled_when=on("do_ref3d"),
        ),
        slider(
            "lowpass",
            "Lowpass filter references (A)",
            "20",
            10,
            100,
            5,
            help=(
                "Low-pass filter (A) for references: 20 or coarser, so that noise is not picked into the "
                "shape of the references."
            ),
            on_continue="inactive",
        ),
        slider(
            "highpass",
            "Highpass filter (A)",
            "-1",
            100,
            1000,
            100,
            help=("High-pass filter (A) for micrographs, against uneven ice; -1 for none."),
            on_continue="inactive",
        ),
        slider(
            "angpix_ref",
            "Pixel size in references (A)",
            "-1",
            0.3,
            5,
            0.1,
            help="Pixel size of the references in A; -1 if it is in their headers.",
            on_continue="inactive",
        ),
        slider(
            "psi_sampling_autopick",
            "In-plane angular sampling (deg)",
            "5",
            1,
            30,
            1,
            help="Step (degrees) of in-plane rotations.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        yes_no(
            "do_invert_refs",
            "References have inverted contrast?",
            True,
            help="Yes if the references are white and the particles black.",
            on_continue="inactive",
        ),
        yes_no(
            "do_ctf_autopick",
            "Are References CTF corrected?",
            True,
            help=(
                "Yes if the references are CTF corrected (as class averages are): they are then multiplied "
                "by each micrograph's CTF."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_ignore_first_ctfpeak_autopick",
            "Ignore CTFs until first peak?",
            False,
            help=("Yes if the references are not right at the lowest resolutions, as RELION's class averages made so."),
            on_continue="inactive",
            enabled_when=on("do_ctf_autopick"),
        ),
    ),
)

AUTOPICKING = Page(
    "autopicking",
    (
        slider(
            "threshold_autopick",
            "Picking threshold:",
            "0.05",
            0,
            1,
            0.01,
            help=("Picks need a peak above this: lower gives more particles. Try it on a few micrographs."),
        ),
        slider(
            "mindist_autopick",
            "Minimum inter-particle distance (A):",
            "100",
            0,
            1000,
            20,
            help="Smallest distance (A) between picks; 50 to 70 % of the diameter.",
            limits=NOT_NEGATIVE,
        ),
        slider(
            "maxstddevnoise_autopick",
            "Maximum stddev noise:",
            "1.1",
            0.9,
            1.5,
            0.02,
            help=(
                "Discard picks where the background varies more than this, such as on carbon edges: 1 to "
                "1.5. -1 for none."
            ),
        ),
        slider(
            "minavgnoise_autopick",
            "Minimum avg noise:",
            "-999",
            -2,
            0.5,
            0.05,
            help=(
                "Discard picks where the background is darker than this many standard deviations: -1 to 0. "
                "-999 for none."
            ),
        ),
        yes_no(
            "do_write_fom_maps",
            "Write FOM maps?",
            False,
            help=(
                "Write the figure-of-merit maps, so that thresholds can be tried quickly. Large files: only "
                "for a few micrographs."
            ),
        ),
        yes_no(
            "do_read_fom_maps",
            "Read FOM maps?",
            False,
            help=("Read the maps that an earlier run of this job wrote, and only apply the thresholds again."),
        ),
        slider(
            "shrink",
            "Shrink factor:",
            "0",
            0,
            1,
            0.1,
            help=("Shrink micrographs by this much: 0 to the resolution of the low-pass filter (fast), 1 not at all."),
            on_continue="inactive",
            limits=Limits(0, 1),
        ),
        USE_GPU,
        GPU_IDS,
    ),
)

HELIX = Page(
    "Helix",
    (
        yes_no(
            "do_pick_helical_segments",
            "Pick 2D helical segments?",
            False,
            help="Yes for helical filaments or tubes.",
            on_continue="inactive",
        ),
        replace(TUBE_DIAMETER, enabled_when=on("do_pick_helical_segments")),
        slider(
            "helical_tube_length_min",
            "Minimum length (A): ",
            "-1",
            100,
            1000,
            10,
            help="Shortest filament (A) that is kept; -1 for all.",
            enabled_when=on("do_pick_helical_segments"),
        ),
        slider(
            "helical_tube_kappa_max",
            "Maximum curvature (kappa): ",
            "0.1",
            0.05,
            0.5,
            0.01,
            help=(
                "Largest curvature, in units of a circle whose diameter is the tube's: 0.05 for "
                "microtubules, 0.25 for wavy filaments."
            ),
            enabled_when=on("do_pick_helical_segments"),
        ),
        replace(ASYMMETRIC_UNITS, enabled_when=on("do_pick_helical_segments")),
        slider(
            "helical_rise",
            "Helical rise (A):",
            "-1",
            0,
            100,
            0.01,
            help=(
                "Rise (A) from one subunit to the next; times the number of asymmetric units it is the "
                "distance between segments."
            ),
            enabled_when=on("do_pick_helical_segments"),
        ),
        yes_no(
            "do_amyloid",
            "Pick amyloid segments?",
            False,
            help="Yes uses an algorithm made for amyloid fibres.",
            enabled_when=on("do_pick_helical_segments"),
        ),
    ),
)
