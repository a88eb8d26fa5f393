"""The files of an iteration: names, order of appearance, going on from them; other programs read them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from small_project import ARGS, BOX, PIXEL, make_project

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.refine import outputs
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.model import ModelState, OptimiserState, SamplingState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.outputs import FINAL, OutputNames, read_optimiser

JOB27 = "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


def make_run(seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    options = RefineOptions.from_args(
        {**ARGS, "--norm": True, "--tau2_fudge": "1", "--offset_range": "5", "--offset_step": "1"},
        command_line="--o Refine3D/job004/run",
    )
    particles = ParticleSet.read(options.particles)
    particles.split_random_halves(5)
    particles.rot[:] = rng.uniform(-180, 180, len(particles))
    particles.has_results = True
    models = []
    for half in (1, 2):
        model = ModelState.new(
            BOX,
            PIXEL,
            group_names=particles.group_names,
            nr_particles_per_group=particles.particles_per_group(half),
            nr_directions=192,
        )
        model.references = [rng.normal(size=(BOX,) * 3).astype(np.float32)]
        model.sigma2_noise[:] = rng.uniform(1e-5, 1e-2, model.sigma2_noise.shape)
        model.tau2_class[:] = rng.uniform(0, 1, model.tau2_class.shape)
        model.pdf_direction[:] = rng.dirichlet(np.ones(192))
        model.current_size, model.current_resolution, model.ave_pmax = 20, 12.5, 0.375
        models.append(model)
    angles = np.column_stack([rng.uniform(-180, 180, 192), rng.uniform(0, 180, 192)])
    sampling = SamplingState(
        offset_range=5 * PIXEL,
        offset_step=PIXEL,
        offset_range_ori=5 * PIXEL,
        offset_step_ori=PIXEL,
        psi_step_ori=15.0,
        directions=angles,
        random_perturbation=0.25,
    )
    state = OptimiserState(iteration=3, random_seed=5, best_resolution=12.5, incr_size=12, accuracy_rot=2.5)
    return options, state, sampling, models, particles


def write_iteration(
    options: RefineOptions,
    state: OptimiserState,
    sampling: SamplingState,
    models: Sequence[ModelState],
    data: star.StarFile,
) -> OutputNames:
    """All files of one iteration, by one who holds everything; two models are the two halves."""
    names = outputs.names_of_iteration(options, state, len(models))
    for number in range(len(models)):
        outputs.write_model_of_iteration(names, options, state, sampling, models, number)
    outputs.write_sampling(names, sampling)
    outputs.write_data(names, data)
    outputs.write_optimiser(names, state, options, models[0].ori_size, models[0].pixel_size)
    return names


def test_names() -> None:
    names = OutputNames("Refine3D/job004/run", 7)
    assert names.optimiser == "Refine3D/job004/run_it007_optimiser.star"
    assert names.model(2) == "Refine3D/job004/run_it007_half2_model.star"
    assert names.reference(1) == "Refine3D/job004/run_it007_half1_class001.mrc"
    final = OutputNames("Refine3D/job004/run", FINAL)
    assert final.data == "Refine3D/job004/run_data.star"
    assert final.reference() == "Refine3D/job004/run_class001.mrc"
    assert final.unfiltered(1) == "Refine3D/job004/run_half1_class001_unfil.mrc"
    assert final.model() == "Refine3D/job004/run_model.star"


def test_what_is_written_is_what_a_continuation_reads(project: Path) -> None:
    options, state, sampling, models, particles = make_run()
    names = write_iteration(options, state, sampling, models, particles.to_star())
    found = sorted(os.listdir("Refine3D/job004"))
    assert found == [
        "run_it003_data.star",
        "run_it003_half1_class001.mrc",
        "run_it003_half1_class001_angdist.bild",
        "run_it003_half1_model.star",
        "run_it003_half2_class001.mrc",
        "run_it003_half2_class001_angdist.bild",
        "run_it003_half2_model.star",
        "run_it003_optimiser.star",
        "run_it003_sampling.star",
    ]
    back = read_optimiser(names.optimiser)
    assert back.state.iteration == 3 and back.state.incr_size == 12 and back.state.accuracy_rot == 2.5
    assert back.state.best_resolution == pytest.approx(12.5)
    assert back.sampling.random_perturbation == 0.25
    np.testing.assert_allclose(back.sampling.directions, sampling.directions, atol=6e-6)
    for written, read in zip(models, back.models, strict=True):
        np.testing.assert_array_equal(read.references[0], written.references[0])
        np.testing.assert_allclose(read.sigma2_noise, written.sigma2_noise, rtol=1e-3)
        np.testing.assert_allclose(read.pdf_direction, written.pdf_direction, rtol=1e-3, atol=1e-6)
        assert read.group_names == written.group_names
        assert (read.nr_particles_per_group == written.nr_particles_per_group).all()
        assert (read.current_size, read.current_resolution, read.ave_pmax) == (20, 12.5, 0.375)
    same = ("particle_diameter", "ctf", "norm", "random_seed", "oversampling", "offset_range", "offset_step")
    for name in set(same) - {"random_seed"}:
        assert getattr(back.options, name) == pytest.approx(getattr(options, name)), name
    data = ParticleSet.read(back.data)
    np.testing.assert_allclose(data.rot, particles.rot, atol=6e-6)
    assert (data.random_subset == particles.random_subset).all()
    assert data.table.strings("rlnSomebodysOwn") == particles.table.strings("rlnSomebodysOwn")


def test_pixel_size_is_in_the_headers_of_the_maps(project: Path) -> None:
    options, state, sampling, models, particles = make_run()
    names = write_iteration(options, state, sampling, models, particles.to_star())
    with mrcfile.open(names.reference(2)) as file:
        assert file.voxel_size.x == pytest.approx(PIXEL)
        np.testing.assert_array_equal(file.data, models[1].references[0])


def test_the_optimiser_appears_last_and_not_at_all_when_the_disc_is_full(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, state, sampling, models, particles = make_run()
    real, order = star.write, []

    def full(path: str, tables: star.StarFile) -> None:
        order.append(str(path))
        if str(path).endswith("_data.star"):
            raise OSError(28, "No space left on device", path)
        real(path, tables)

    monkeypatch.setattr(outputs.star, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: 'Refine3D/job004/run_it003_data\.star'"):
        write_iteration(options, state, sampling, models, particles.to_star())
    assert not Path("Refine3D/job004/run_it003_optimiser.star").exists()
    assert not list(Path("Refine3D/job004").glob("*tmp*"))


def test_the_last_iteration_has_no_number_and_cannot_be_continued(project: Path) -> None:
    options, state, sampling, models, particles = make_run()
    names = write_iteration(options, state, sampling, models[:1], particles.to_star())
    assert names.optimiser == "Refine3D/job004/run_optimiser.star"
    assert Path("Refine3D/job004/run_class001.mrc").exists() and Path("Refine3D/job004/run_data.star").exists()
    general = star.read(names.optimiser)["optimiser_general"]
    assert general.value("rlnDoSplitRandomHalves") == "0" and "rlnModelStarFile2" not in general
    with pytest.raises(UserError, match="numbered iteration"):
        read_optimiser(names.optimiser)


def test_options_of_a_continuation_change_the_state(project: Path) -> None:
    options, state, sampling, models, particles = make_run()
    models[0].sigma_offset, models[1].sigma_offset = 4.0, 5.0
    names = write_iteration(options, state, sampling, models, particles.to_star())
    given = {"--sigma_tilt": "3", "--perturb": "0", "--pad": "1", "--offset_range": "5"}
    old = read_optimiser(names.optimiser)
    outputs.apply_changes(old, RefineOptions.continued(old.options, 3, given, set(given)))
    assert [m.sigma_offset for m in old.models] == [4, 5]  # not given: each half keeps its own
    assert [(m.sigma_rot, m.sigma_tilt, m.padding_factor) for m in old.models] == [(0, 3, 1)] * 2
    assert {m.orientational_prior_mode for m in old.models} == {1} and old.sampling.perturbation_factor == 0
    old = read_optimiser(names.optimiser)
    given = {"--offset": "7"}
    outputs.apply_changes(old, RefineOptions.continued(old.options, 3, given, set(given)))
    assert [m.sigma_offset for m in old.models] == [7, 7]
    assert {m.orientational_prior_mode for m in old.models} == {0}


def test_a_missing_file_is_named(project: Path) -> None:
    options, state, sampling, models, particles = make_run()
    names = write_iteration(options, state, sampling, models, particles.to_star())
    os.remove(names.reference(2))
    with pytest.raises(UserError, match=r"run_it003_half2_class001\.mrc, which does not exist"):
        read_optimiser(names.optimiser)
    with pytest.raises(UserError, match=r"takes an _optimiser\.star"):
        read_optimiser("particles.star")


@pytest.mark.req("E1")
def test_a_run_of_release_2_is_read_whole(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data file and maps were not published: ours stand in for them, beside the real STAR files."""
    monkeypatch.chdir(make_project(tmp_path))
    for path in (shared / JOB27).glob("run_it015_*.star"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run_it015_data.star").write_text((tmp_path / "particles.star").read_text())
    for half in (1, 2):
        with mrcfile.new(tmp_path / f"run_it015_half{half}_class001.mrc") as file:
            file.set_data(np.full((100, 100, 100), half, np.float32))
    back = read_optimiser("run_it015_optimiser.star")
    assert back.options.symmetry == "D2" and back.options.offset_step == pytest.approx(0.5355)
    assert back.sampling.offset_step == pytest.approx(0.5355 * 3.54)
    assert back.state.accuracy_trans == pytest.approx(0.322 * 3.54)
    assert [m.references[0][0, 0, 0] for m in back.models] == [1, 2]


def test_tau2_spectrum(project: Path) -> None:
    options, state, sampling, models, particles = make_run()
    names = write_iteration(options, state, sampling, models, particles.to_star())
    spectrum = outputs.read_tau2_spectrum(names.model(1), 20, 2.0)
    np.testing.assert_allclose(spectrum[:17], 2 * models[0].tau2_class[0], rtol=1e-3, atol=2e-6)
    assert not spectrum[17:].any()
    with pytest.raises(UserError, match="has no table with _rlnSpectralIndex"):
        outputs.read_tau2_spectrum("particles.star", 20, 1.0)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.mark.req("E1")
def test_debians_relion_reads_the_particles(project: Path, debian_relion: Callable[[str], str]) -> None:
    options, state, sampling, models, particles = make_run()
    names = write_iteration(options, state, sampling, models, particles.to_star())
    handler = debian_relion("relion_star_handler")
    done = run([handler, "--i", names.data, "--o", "again.star"])
    assert done.returncode == 0, done.stderr
    ours, theirs = star.read(names.data), star.read("again.star")
    assert ours["optics"].labels == theirs["optics"].labels
    for label in ours["particles"].labels:
        if label == "rlnSomebodysOwn":  # release 3.1 drops what it does not know
            continue
        if label.endswith("Name"):
            assert ours["particles"].strings(label) == theirs["particles"].strings(label), label
        else:
            np.testing.assert_allclose(
                ours["particles"].floats(label), theirs["particles"].floats(label), rtol=1e-6, err_msg=label
            )


@pytest.mark.req("E1")
def test_debians_relion_reconstructs_from_the_particles(project: Path, debian_relion: Callable[[str], str]) -> None:
    options, state, sampling, models, particles = make_run()
    names = write_iteration(options, state, sampling, models, particles.to_star())
    program = debian_relion("relion_reconstruct")
    done = run([program, "--i", names.data, "--o", "map.mrc", "--ctf", "--subset", "1"])
    assert done.returncode == 0, done.stderr
    with mrcfile.open("map.mrc") as file:
        assert file.data.shape == (BOX,) * 3 and np.isfinite(file.data).all() and file.data.std() > 0


@pytest.mark.req("E1")
def test_debians_relion_continues_from_the_files(project: Path, debian_relion: Callable[[str], str]) -> None:
    """Release 3.1.3 reads our optimiser, model, sampling, data and map files, writes what it read, and begins
    the next iteration. It wants noise spectra per micrograph group, which release 4 and later keep per optics
    group, so they are given to it under both names; alone it continues from the second half."""
    options, state, sampling, models, particles = make_run()
    for model in models:
        model.references = [np.asarray(mrcfile.read("ref.mrc"))]
        model.fsc_halves_class[:] = 0.5
    names = write_iteration(options, state, sampling, models, particles.to_star())
    for half in (1, 2):
        tables = star.read(names.model(half))
        for g in range(models[0].nr_groups):
            tables[f"model_group_{g + 1}"] = tables["model_optics_group_1"].copy()
        star.write(names.model(half), tables)
    log = Path("log.txt")
    command = [debian_relion("relion_refine"), "--continue", names.optimiser, "--o", "Refine3D/job004/next"]
    command += ["--debug_split_random_half", "1"]  # else it wants MPI
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        end = time.monotonic() + 60
        while "Iteration= 4" not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        process.kill()
    assert "Iteration= 4" in log.read_text(), log.read_text()

    ours, theirs = star.read(names.model(2)), star.read("Refine3D/job004/next_it003_half0_model.star")
    for name, labels in {
        "model_class_1": ["rlnReferenceTau2", "rlnGoldStandardFsc", "rlnSsnrMap", "rlnAngstromResolution"],
        "model_pdf_orient_class_1": ["rlnOrientationDistribution"],
        "model_groups": ["rlnGroupScaleCorrection"],
        "model_group_1": ["rlnSigma2Noise"],
        "model_general": ["rlnCurrentResolution", "rlnAveragePmax", "rlnSigmaOffsetsAngst", "rlnPixelSize"],
    }.items():
        for label in labels:
            expected, found = ours[name].floats(label), theirs[name].floats(label)
            np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=label)
    assert theirs["model_groups"].strings("rlnGroupName") == ours["model_groups"].strings("rlnGroupName")
    state_ours, state_theirs = (
        star.read(f"Refine3D/job004/{root}_it003_optimiser.star")["optimiser_general"] for root in ("run", "next")
    )
    for label in state_theirs.labels:
        if label in state_ours and "File" not in label and label != "rlnOutputRootName":
            assert state_theirs.value(label) == state_ours.value(label), label
