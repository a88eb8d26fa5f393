"""Join star files: two to four particle, micrograph or movie STAR files into one (relion_star_handler)."""

from __future__ import annotations

from dataclasses import dataclass

from . import nodes
from .common import OTHER_ARGS, running
from .conditions import Condition, Values, all_of, empty, filled, on, that
from .spec import (
    Arg,
    Command,
    Display,
    Input,
    JobContext,
    JobSpec,
    Output,
    Page,
    Rule,
    literal,
    node,
    output,
    yes_no,
)

PARTICLES = Page(
    "particles",
    (
        yes_no(
            "do_part",
            "Combine particle STAR files?",
            False,
            help="Join particle STAR files.",
            on_continue="inactive",
        ),
        node(
            "fn_part1",
            "Particle STAR file 1: ",
            nodes.PARTS,
            pattern="particle STAR file (*.star)",
            help="First particle STAR file.",
            on_continue="inactive",
            enabled_when=on("do_part"),
        ),
        node(
            "fn_part2",
            "Particle STAR file 2: ",
            nodes.PARTS,
            pattern="particle STAR file (*.star)",
            help="Second particle STAR file.",
            on_continue="inactive",
            enabled_when=on("do_part"),
        ),
        node(
            "fn_part3",
            "Particle STAR file 3: ",
            nodes.PARTS,
            pattern="particle STAR file (*.star)",
            help="Third particle STAR file (optional).",
            on_continue="inactive",
            enabled_when=on("do_part"),
        ),
        node(
            "fn_part4",
            "Particle STAR file 4: ",
            nodes.PARTS,
            pattern="particle STAR file (*.star)",
            help="Fourth particle STAR file (optional).",
            on_continue="inactive",
            enabled_when=on("do_part"),
        ),
    ),
)

MICROGRAPHS = Page(
    "micrographs",
    (
        yes_no(
            "do_mic",
            "Combine micrograph STAR files?",
            False,
            help="Join micrograph STAR files.",
            on_continue="inactive",
        ),
        node(
            "fn_mic1",
            "Micrograph STAR file 1: ",
            nodes.MICS,
            pattern="micrograph STAR file (*.star)",
            help="First micrograph STAR file.",
            on_continue="inactive",
            enabled_when=on("do_mic"),
        ),
        node(
            "fn_mic2",
            "Micrograph STAR file 2: ",
            nodes.MICS,
            pattern="micrograph STAR file (*.star)",
            help="Second micrograph STAR file.",
            on_continue="inactive",
            enabled_when=on("do_mic"),
        ),
        node(
            "fn_mic3",
            "Micrograph STAR file 3: ",
            nodes.MICS,
            pattern="micrograph STAR file (*.star)",
            help="Third micrograph STAR file (optional).",
            on_continue="inactive",
            enabled_when=on("do_mic"),
        ),
        node(
            "fn_mic4",
            "Micrograph STAR file 4: ",
            nodes.MICS,
            pattern="micrograph STAR file (*.star)",
            help="Fourth micrograph STAR file (optional).",
            on_continue="inactive",
            enabled_when=on("do_mic"),
        ),
    ),
)

MOVIES = Page(
    "movies",
    (
        yes_no(
            "do_mov",
            "Combine movie STAR files?",
            False,
            help="Join movie STAR files.",
            on_continue="inactive",
        ),
        node(
            "fn_mov1",
            "Movie STAR file 1: ",
            nodes.MOVIES,
            pattern="movie STAR file (*.star)",
            help="First movie STAR file.",
            on_continue="inactive",
            enabled_when=on("do_mov"),
        ),
        node(
            "fn_mov2",
            "Movie STAR file 2: ",
            nodes.MOVIES,
            pattern="movie STAR file (*.star)",
            help="Second movie STAR file.",
            on_continue="inactive",
            enabled_when=on("do_mov"),
        ),
        node(
            "fn_mov3",
            "Movie STAR file 3: ",
            nodes.MOVIES,
            pattern="movie STAR file (*.star)",
            help="Third movie STAR file (optional).",
            on_continue="inactive",
            enabled_when=on("do_mov"),
        ),
        node(
            "fn_mov4",
            "Movie STAR file 4: ",
            nodes.MOVIES,
            pattern="movie STAR file (*.star)",
            help="Fourth movie STAR file (optional).",
            on_continue="inactive",
            enabled_when=on("do_mov"),
        ),
    ),
)


_SWITCHES = ("do_part", "do_mic", "do_mov")


@dataclass(frozen=True)
class Sort:
    """One sort of file that can be joined."""

    switch: str
    stem: str
    label: str
    column: str
    result: str
    node_type: str

    @property
    def chosen(self) -> Condition:
        return on(self.switch)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{self.stem}{n}" for n in (1, 2, 3, 4))

    def names(self, context: JobContext) -> str:
        """All files as the one argument that relion_star_handler splits at blanks."""
        return " " + " ".join(context[key] for key in self.keys if context[key]) + " "

    def args(self) -> tuple[Arg, ...]:
        return (
            Arg("--combine", when=self.chosen),
            Arg("--i", self.names, self.chosen),
            Arg("--check_duplicates", literal(self.column), self.chosen),
            Arg("--o", output(self.result), self.chosen),
        )


SORTS = (
    Sort("do_part", "fn_part", "particles", "rlnImageName", "join_particles.star", nodes.PARTS),
    Sort("do_mic", "fn_mic", "micrographs", "rlnMicrographName", "join_mics.star", nodes.MICS),
    Sort("do_mov", "fn_mov", "movies", "rlnMicrographMovieName", "join_movies.star", nodes.MOVIES),
)


def _has_blank(key: str) -> Condition:
    return that(lambda values: any(c.isspace() for c in values[key]), f"{key} holds a blank", key)


def _chosen(values: Values) -> int:
    return sum(values[switch] == "Yes" for switch in _SWITCHES)


SPEC = JobSpec(
    type_label="relion.joinstar",
    type_number=13,
    directory="JoinStar",
    browser_label="Join star files",
    hidden_file=".gui_joinstarjob.star",
    help="Join several STAR files of one sort.",
    pages=(PARTICLES, MICROGRAPHS, MOVIES, running(mpi=False, threads=False)),
    commands=(Command("relion_star_handler", (*(arg for sort in SORTS for arg in sort.args()), OTHER_ARGS)),),
    inputs=tuple(Input(key, when=all_of(sort.chosen, filled(key))) for sort in SORTS for key in sort.keys),
    outputs=tuple(Output(sort.result, sort.node_type, sort.chosen) for sort in SORTS),
    labels=tuple((sort.label, sort.chosen) for sort in SORTS),
    refusals=(
        Rule(
            that(lambda values: _chosen(values) == 0, "no sort of file is chosen", *_SWITCHES),
            "Choose what to join: particles, micrographs or movies.",
            "do_part",
        ),
        Rule(
            that(lambda values: _chosen(values) > 1, "several sorts of file are chosen", *_SWITCHES),
            "Join one sort of file at a time: particles, micrographs or movies.",
            "do_part",
        ),
        *(
            Rule(all_of(sort.chosen, empty(key)), "Give at least two files to join.", key)
            for sort in SORTS
            for key in sort.keys[:2]
        ),
    ),
    checks=tuple(
        Rule(
            all_of(sort.chosen, _has_blank(key)),
            "A file's name with a blank cannot be joined, for names are separated by blanks: rename it.",
            key,
        )
        for sort in SORTS
        for key in sort.keys
    ),
    display=(
        Display("Particles", "join_particles.star", "particles"),
        Display("Micrographs", "join_mics.star", "micrographs"),
        Display("Movies", "join_movies.star", "star"),
    ),
)
