"""Programs that pretend: they take RELION's options, write the STAR files that the next job reads, and log.

One script under many names. `programs.log` in the project holds a line for each call, `processed.log` one for each
movie or micrograph that was worked on.
"""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path

STAR_HANDLER, IMPORT = "relion_star_handler", "relion_import"
NAMES = (
    "mpirun",
    IMPORT,
    "relion_run_motioncorr",
    "relion_run_ctffind",
    STAR_HANDLER,
    "relion_autopick",
    "relion_autopick_mpi",
    "relion_preprocess",
    "relion_preprocess_mpi",
    "relion_refine",
    "relion_refine_mpi",
    "relion_class_ranker",
    "relion_align_symmetry",
)


def install(directory: Path) -> None:
    """Put the programs into a directory that goes onto the PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        program = directory / name
        program.write_text(f"#!{sys.executable} -S\n" + Path(__file__).read_text())
        program.chmod(0o755)


def table(path: str, name: str, labels: list[str], rows: list[list[str]]) -> None:
    head = "".join(f"_{label} #{i}\n" for i, label in enumerate(labels, 1))
    text = f"\ndata_{name}\n\nloop_\n{head}" + "".join(" ".join(row) + "\n" for row in rows) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def first_column(path: str) -> list[str]:
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    return [words[0] for words in lines if words and not words[0].startswith(("data_", "loop_", "_", "#"))]


def log(file: str, line: str) -> None:
    with open(file, "a") as handle:
        handle.write(line + "\n")


def each_new(items: list[str], out: str, unfinished: bool, at_most: int, step: str) -> list[str]:
    """Work on the items that have no output yet, at most so many; returns all that are done."""
    done = []
    for item in items:
        made = out + item.split("/")[-1].rsplit(".", 1)[0] + ".mrc"
        if not (unfinished and os.path.exists(made)):
            if at_most == 0:
                continue
            at_most -= 1
            Path(made).write_text(step)
            log("processed.log", f"{step} {item.split('/')[-1]}")
        done.append(made)
    return done


def main() -> None:
    program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if program == "mpirun":
        os.execvp(words[2], words[2:])
    log("programs.log", " ".join([program, *words]))
    value = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
    out = value.get("--o", "")
    job = value["--pipeline_control"]
    if program == "relion_import":
        movies = sorted(glob.glob(value["--i"]))
        table(value["--odir"] + value["--ofile"], "movies", ["rlnMicrographMovieName"], [[m] for m in movies])
    elif program in ("relion_run_motioncorr", "relion_run_ctffind"):
        step = program.removeprefix("relion_run_")
        at_most = int(value.get("--do_at_most", "-1"))
        done = each_new(first_column(value["--i"]), out, "--only_do_unfinished" in words, at_most, step)
        file = "corrected_micrographs.star" if step == "motioncorr" else "micrographs_ctf.star"
        table(out + file, "micrographs", ["rlnMicrographName", "rlnCtfMaxResolution"], [[m, "4.0"] for m in done])
    elif program == "relion_star_handler":
        rows = [[name, "4.0"] for name in first_column(value["--i"])]
        table(out, "micrographs", ["rlnMicrographName", "rlnCtfMaxResolution"], rows)
    elif program.startswith("relion_autopick"):
        rows = [[m, m + "_pick"] for m in first_column(value["--i"])]
        table(job + "autopick.star", "coordinate_files", ["rlnMicrographName", "rlnMicrographCoordinates"], rows)
    elif program.startswith("relion_preprocess"):
        rows = [[f"{i}@{m}"] for m in first_column(value["--coord_list"]) for i in range(1, 4)]
        table(value["--part_star"], "particles", ["rlnImageName"], rows)
    elif program.startswith("relion_refine"):
        rows = [[name] for name in first_column(value["--i"])]
        for stem in ("_data.star", "_it200_data.star", "_optimiser.star", "_it200_optimiser.star", "_it200_model.star"):
            table(out + stem, "particles", ["rlnImageName"], rows)
        assert "--ref" not in value or os.path.exists(value["--ref"]), value["--ref"]
    elif program == "relion_class_ranker":
        rows = [[name] for name in first_column(value["--opt"])]
        table(out + value["--fn_sel_parts"], "particles", ["rlnImageName"], rows)
        table(out + value["--fn_sel_classavgs"], "images", ["rlnReferenceImage"], [["1@averages.mrcs"]])
    else:
        Path(out).write_text("map")
    Path(job + "RELION_JOB_EXIT_SUCCESS").touch()


if __name__ == "__main__":
    main()
