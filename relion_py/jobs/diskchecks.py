"""Problems that only the disc, the machine and the PATH can tell: checked before a job is started.

Files are looked at as shortly as may be (headers and column names, remembered while a file does not change),
so that the checks can run while somebody types.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from . import files, quoting
from .environment import program_path
from .nodes import canonical, matches
from .numeric import parse_number
from .spec import Command, JobContext, JobSpec, Option, Problem

Complaint = tuple[str, str]
BLUSH = "relion_python_blush"


def _which(program: str) -> str | None:
    """Where a program is found, on the PATH or beside this package's own."""
    return shutil.which(program, path=program_path())


def problems(spec: JobSpec, context: JobContext, root: Path) -> list[Problem]:
    """Everything that the disc, the machine and the PATH say against a job in the project at `root`."""
    checks: tuple[Callable[[JobSpec, JobContext, Path], Iterator[Complaint]], ...] = (
        _input_files,
        _programs,
        _queue,
        _scratch,
        _maps,
        _particles,
        _memory,
    )
    found = [Problem(key, text) for check in checks for key, text in check(spec, context, root)]
    return list(dict.fromkeys(found))


def preread_bytes(values: Mapping[str, str], root: Path) -> int | None:
    """Memory (bytes) that pre-reading all particles takes: number x box x box x 4 for every process that
    reads.

    None where the particles' number or box cannot be told. Every MPI process reads unless the leader does it
    for all of them (no parallel disc I/O).
    """
    particles = files.particle_summary(root / values.get("fn_img", ""))
    if particles is None or not particles.box:
        return None
    ranks = int(parse_number(values.get("nr_mpi", "1")) or 1)
    readers = max(1, ranks) if values.get("do_parallel_discio") == "Yes" else 1
    return particles.count * particles.box**2 * 4 * readers


def free_memory() -> int | None:
    """Memory (bytes) that programs may still take on this machine, or None where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _label(option: Option) -> str:
    return option.label.strip().rstrip(":?")


def _input_files(spec: JobSpec, context: JobContext, root: Path) -> Iterator[Complaint]:
    """Inputs that are missing, unreadable or of another type, and programs that cannot be run."""
    node_types = files.node_types(root)
    for key, option in spec.options.items():
        value = context[key]
        used = option.kind in ("file", "node") and key != "qsubscript" and spec.counts(key, context)
        if not used or not value or "$$" in value or (key == "fn_ref" and value == "None"):
            continue
        if option.executable:
            message = _executable_complaint(value, root, option)
        elif context.is_continue and option.on_continue == "inactive":
            continue
        else:
            message = _file_complaint(value, root) or _type_complaint(option, node_types.get(value, ""))
        if message:
            yield key, message


def _file_complaint(value: str, root: Path) -> str:
    path = root / value
    if any(c in value for c in "*?[") and not path.exists():
        if os.path.isabs(value) or any(root.glob(value)):
            return ""
        return f"No file fits '{value}': check the path, which starts at the project directory."
    if not path.exists():
        return f"There is no file '{value}' in the project: check the name, or choose one with Browse."
    if path.is_dir():
        return f"'{value}' is a directory: choose a file in it."
    if not os.access(path, os.R_OK):
        return f"'{value}' cannot be read: its permissions forbid it."
    return ""


def _type_complaint(option: Option, node_type: str) -> str:
    if not option.node_type or not node_type or matches(node_type, option.node_type):
        return ""
    return f"This is of type {canonical(node_type)}, but '{_label(option)}' takes {option.node_type}: choose another."


def _executable_complaint(value: str, root: Path, option: Option) -> str:
    if (root / value).is_file():
        fine = os.access(root / value, os.X_OK)
        return "" if fine else f"'{value}' is not executable: run chmod +x on it."
    words = quoting.words(value)
    if words and (_which(words[0]) or os.access(root / words[0], os.X_OK)):
        return ""
    if option.without_it:
        # what a form comes with, people have not asked for
        return "" if value == option.default else f"There is no program '{value}', so {option.without_it}."
    return f"There is no program '{value}': give its path, or put its directory on the PATH."


def _fixed_programs(spec: JobSpec, context: JobContext) -> Iterator[str]:
    for command in spec.commands:
        if isinstance(command, Command) and isinstance(command.program, str) and _runs(command, context):
            mpi = command.mpi and (parse_number(context.get("nr_mpi", "1")) or 1) > 1
            yield command.program + ("_mpi" if mpi else "")


def _runs(command: Command, context: JobContext) -> bool:
    try:
        return command.when(context)
    except ValueError:  # a number that is none, which is told elsewhere
        return False


def _programs(spec: JobSpec, context: JobContext, root: Path) -> Iterator[Complaint]:
    """Programs of RELION and the MPI launcher that are not on the PATH (a queue's nodes have their own)."""
    if context.yes("do_queue"):
        return
    for program in dict.fromkeys(_fixed_programs(spec, context)):
        if not _which(program):
            yield "", f"The program '{program}' is not on the PATH, so this job cannot run on this machine."
        elif program.endswith("_mpi"):
            launcher = quoting.words(context.env.mpirun)
            if launcher and not _which(launcher[0]):
                yield (
                    "nr_mpi",
                    f"'{launcher[0]}' is not on the PATH: install an MPI, set RELION_MPIRUN, or use 1 process.",
                )
    if "do_blush" in spec.options and context.yes("do_blush") and not _which(BLUSH):
        yield "do_blush", f"The program '{BLUSH}' of RELION 5 is not on the PATH: say No, or install it."


def _queue(spec: JobSpec, context: JobContext, root: Path) -> Iterator[Complaint]:
    """What submission to a queue needs."""
    if not context.yes("do_queue"):
        return
    submit = quoting.words(context["qsub"])
    if not submit or not _which(submit[0]):
        yield (
            "qsub",
            f"There is no command '{context['qsub']}' to submit the job: check its name and the PATH.",
        )
    template = context["qsubscript"]
    path = root / template
    if not template:
        yield "qsubscript", "Give a submission script template, or set RELION_QSUB_TEMPLATE."
    elif not path.is_file() or not os.access(path, os.R_OK):
        yield "qsubscript", f"There is no readable submission script template '{template}'."
    elif "XXXcommandXXX" not in path.read_text(errors="replace"):
        yield "qsubscript", f"The template '{template}' holds no XXXcommandXXX, so it would run nothing."


def _scratch(spec: JobSpec, context: JobContext, root: Path) -> Iterator[Complaint]:
    """A scratch directory that is not there or not writable (a queue's nodes have their own)."""
    directory = context.get("scratch_dir", "")
    if not directory or context.yes("do_queue") or not spec.counts("scratch_dir", context):
        return
    if not os.path.isdir(root / directory):
        yield "scratch_dir", f"There is no directory '{directory}' on this machine to copy particles to."
    elif not os.access(root / directory, os.W_OK | os.X_OK):
        yield (
            "scratch_dir",
            f"The directory '{directory}' is not writable: choose another, or leave this empty.",
        )


def _maps(spec: JobSpec, context: JobContext, root: Path) -> Iterator[Complaint]:
    """Maps that are none, not cubic, of odd size, or of another size than the mask."""
    sizes: dict[str, int] = {}
    for key in ("fn_ref", "fn_in", "fn_map", "fn_mask"):
        option = spec.options.get(key)
        if option is None or not context[key].endswith((".mrc", ".map")) or not spec.counts(key, context):
            continue
        if not (root / context[key]).is_file():
            continue
        header = files.mrc_header(root / context[key])
        if header is None:
            yield key, f"'{context[key]}' is no MRC map, or it is cut short: make or copy it again."
        elif not header.nx == header.ny == header.nz:
            yield key, f"The map is not a cube but {header.nx} x {header.ny} x {header.nz}: pad or crop it."
        elif header.nx % 2:
            yield key, f"The map's box of {header.nx} pixels is odd: RELION needs an even one."
        else:
            sizes[key] = header.nx
    maps = [size for key, size in sizes.items() if key != "fn_mask"]
    if maps and "fn_mask" in sizes and sizes["fn_mask"] != maps[0] and not context.yes("trust_ref_size"):
        yield (
            "fn_mask",
            f"The mask's box of {sizes['fn_mask']} pixels differs from the map's of {maps[0]}: make it for this map.",
        )


def _particles(spec: JobSpec, context: JobContext, root: Path) -> Iterator[Complaint]:
    """Particles without what the job needs, or that do not fit the reference."""
    if "fn_img" not in spec.options or context.is_continue or not (root / context["fn_img"]).is_file():
        return
    if not context["fn_img"].endswith(".star"):
        return
    particles = files.particle_summary(root / context["fn_img"])
    if particles is None or "rlnImageName" not in particles.columns:
        yield "fn_img", "This STAR file holds no table of particles (no column rlnImageName)."
        return
    if particles.count == 0:
        yield "fn_img", "This STAR file holds no particles."
    if context.yes("do_ctf_correction") and "rlnDefocusU" not in particles.columns:
        yield (
            "do_ctf_correction",
            "The particles hold no CTF parameters (no column rlnDefocusU): estimate them, or switch this off.",
        )
    if particles.box and particles.box % 2:
        yield "fn_img", f"The particles' box of {particles.box} pixels is odd: extract them in an even one."
    diameter = parse_number(context.get("particle_diameter", "")) or 0.0
    if particles.box and particles.pixel_size and diameter > particles.box * particles.pixel_size:
        yield (
            "particle_diameter",
            f"The diameter of {diameter:g} A is larger than the box of {particles.box * particles.pixel_size:.0f} A.",
        )
    yield from _reference_fits(spec, context, root, particles)


def _reference_fits(
    spec: JobSpec, context: JobContext, root: Path, particles: files.ParticleSummary
) -> Iterator[Complaint]:
    if "fn_ref" not in spec.options or context.yes("trust_ref_size"):
        return
    header = files.mrc_header(root / context["fn_ref"])
    if header is None:
        return
    advice = "rescale it, or switch on that its size may be trusted."
    if particles.box and header.nx != particles.box:
        yield (
            "fn_ref",
            f"The map's box of {header.nx} pixels differs from the particles' of {particles.box}: {advice}",
        )
    if not particles.pixel_size or not header.pixel_size:
        return
    if abs(header.pixel_size / particles.pixel_size - 1) > 0.01:
        yield (
            "fn_ref",
            f"The map's pixel of {header.pixel_size:.4g} A differs from the particles' of "
            f"{particles.pixel_size:.4g} A: {advice}",
        )


def _memory(spec: JobSpec, context: JobContext, root: Path) -> Iterator[Complaint]:
    """Pre-reading more particles than memory holds (a queue's nodes have their own)."""
    if not context.yes("do_preread_images") or context.yes("do_queue") or "fn_img" not in spec.options:
        return
    need, free = preread_bytes(context, root), free_memory()
    if need is not None and free is not None and need > free:
        yield (
            "do_preread_images",
            f"Reading all particles needs {need / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB "
            f"are free: "
            "use scratch instead, or fewer processes.",
        )
