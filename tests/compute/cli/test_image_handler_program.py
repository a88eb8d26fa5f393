"""relion_image_handler beside RELION 5's maps and Debian's program."""

import gzip
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from in_process import outcome
from reference_data import SHARED
from witness_maps import read

from relion_py.compute.cli.image_handler import _main
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_stack, write_map, write_stack
from relion_py.compute.io.star import StarFile, Table

GOLDEN = SHARED / "golden/numeric/image_handler"
MAP = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027/run_class001.mrc.gz"


program = partial(outcome, _main)


@pytest.mark.skipif(not (GOLDEN.exists() and MAP.exists()), reason="RELION 5's maps are not here")
@pytest.mark.parametrize(
    ("flags", "name"),
    [("--lowpass 20", "lp20"), ("--new_box 64", "box64"), ("--rescale_angpix 5.0", "rescaled5")],
)
def test_maps_of_relion_5(tmp_path: Path, flags: str, name: str) -> None:
    for source, target in ((MAP, "map.mrc"), (GOLDEN / f"{name}.mrc.gz", "golden.mrc")):
        (tmp_path / target).write_bytes(gzip.decompress(source.read_bytes()))
    words = ["--i", "map.mrc", "--o", "out.mrc", "--angpix", "3.54", *flags.split()]
    code, _, err = program(tmp_path, *words)
    assert code == 0, err
    (ours, size), (theirs, golden_size) = (
        read(tmp_path / "out.mrc"),
        read(tmp_path / "golden.mrc"),
    )
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    assert size == pytest.approx(golden_size if "rescale" in flags else 3.54, rel=1e-4)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    volume = lowpass(rng.normal(size=(24, 24, 24)), 2.0, 9.0) * soft_mask(24, 6, 3)
    write_map(tmp_path / "map.mrc", volume.astype(np.float32), 2.0)
    write_map(tmp_path / "map2.mrc", (0.3 * volume + 0.01 * rng.normal(size=volume.shape)).astype(np.float32), 2.0)
    write_map(tmp_path / "mask.mrc", soft_mask(24, 5, 2), 2.0)
    write_map(tmp_path / "other.mrc", rng.normal(size=(24, 24, 24)).astype(np.float32), 2.0)
    write_stack(tmp_path / "parts.mrcs", rng.normal(size=(150, 16, 16)).astype(np.float32), 2.0)
    optics = Table({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [2.0]})
    for label, value in (("rlnVoltage", 300.0), ("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1),
                         ("rlnImageSize", 16), ("rlnImageDimensionality", 2)):  # fmt: skip
        optics.set(label, value)
    rows = Table({"rlnImageName": [f"{n:06d}@parts.mrcs" for n in range(150, 0, -3)]})
    rows.set("rlnOpticsGroup", 1)
    star.write(tmp_path / "parts.star", StarFile({"optics": optics, "particles": rows}))
    return tmp_path


@pytest.mark.parametrize(
    "flags",
    [
        "--multiply_constant 2.5", "--divide_constant 3", "--add_constant 0.7", "--subtract_constant 1.5",
        "--threshold_above 0.1", "--threshold_below -0.05",
        "--multiply other.mrc", "--divide other.mrc", "--add other.mrc", "--subtract other.mrc",
        "--lowpass 10", "--highpass 14", "--bfactor 50", "--LoG 12", "--lowpass 8 --filter_edge_width 6",
        "--lowpass 10 --directional X", "--lowpass 8 --directional y", "--lowpass 12 --directional Z",
        "--adjust_power other.mrc", "--subtract other.mrc --optimise_scale_subtract",
        "--subtract other.mrc --optimise_scale_subtract --optimise_bfactor_subtract 60",
        "--subtract map2.mrc --optimise_scale_subtract --mask_optimise_subtract mask.mrc",
        "--flipX", "--flipY", "--flipZ", "--invert_hand", "--shift_com",
        "--shift_x 3 --shift_y -2 --shift_z 1", "--shift_x 1.3 --shift_y 0.4 --shift_z -2.6",
        "--rescale_angpix 3.1", "--rescale_angpix 1.4", "--new_box 18", "--new_box 30",
        "--rescale_angpix 3 --new_box 20", "--sym D2", "--sym C3", "--sym O",
    ],
)  # fmt: skip
def test_maps_as_debians_relion(pictures: Path, debian_relion: Callable[[str], str], flags: str) -> None:
    words = ["--i", "map.mrc", "--angpix", "2", *flags.split()]
    code, _, err = program(pictures, *words, "--o", "ours.mrc")
    assert code == 0, err
    command = [debian_relion("relion_image_handler"), *words, "--o", "theirs.mrc"]
    subprocess.run(command, cwd=pictures, check=True, capture_output=True)
    (ours, _), (theirs, _) = read(pictures / "ours.mrc"), read(pictures / "theirs.mrc")
    assert ours.shape == theirs.shape
    inside = (slice(2, -2),) * 3 if "--shift" in flags or "--sym" in flags else ...
    assert np.abs(ours[inside] - theirs[inside]).max() < 2e-4 * np.abs(theirs).max()
    assert (
        np.abs(theirs - read(pictures / "map.mrc")[0][: len(theirs)]).max() > 0 if theirs.shape == (24,) * 3 else True
    )


@pytest.mark.parametrize("flags", ["--lowpass 9", "--flipXY", "--flipmXY", "--multiply_constant 4", "--new_box 12"])
def test_stack_as_debians_relion(pictures: Path, debian_relion: Callable[[str], str], flags: str) -> None:
    words = ["--i", "parts.mrcs", "--angpix", "2", *flags.split()]
    code, _, err = program(pictures, *words, "--o", "ours.mrcs", "--j", "2")
    assert code == 0, err
    command = [debian_relion("relion_image_handler"), *words, "--o", "theirs.mrcs"]
    subprocess.run(command, cwd=pictures, check=True, capture_output=True)
    (ours, size), (theirs, _) = read(pictures / "ours.mrcs"), read(pictures / "theirs.mrcs")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert len(ours) == 150 and size == 2.0


@pytest.mark.parametrize("report", ["--fsc odd2.mrc", "--power"])
def test_reports_of_odd_boxes_as_of_debians_relion(
    tmp_path: Path, debian_relion: Callable[[str], str], report: str
) -> None:
    rng = np.random.default_rng(4)
    first = lowpass(rng.normal(size=(25, 25, 25)), 2.0, 6.0) + 0.1 * rng.normal(size=(25, 25, 25))
    write_map(tmp_path / "odd1.mrc", first.astype(np.float32), 2.0)
    write_map(tmp_path / "odd2.mrc", (first + 0.1 * rng.normal(size=first.shape)).astype(np.float32), 2.0)
    words = ["--i", "odd1.mrc", "--angpix", "2", *report.split()]
    code, ours, err = program(tmp_path, *words)
    assert code == 0, err
    command = [debian_relion("relion_image_handler"), *words]
    theirs = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    label = "rlnFourierShellCorrelation" if "fsc" in report else "rlnReferenceSpectralPower"
    columns = []
    for number, text in enumerate((ours, theirs)):
        (tmp_path / f"{number}.star").write_text(text[text.index("data_") :])
        columns.append(next(iter(star.read(tmp_path / f"{number}.star").values())).floats(label)[:13])
    np.testing.assert_allclose(*columns, rtol=1e-4, atol=1e-9)
    assert len(columns[0]) == 13
    words = ["--i", "odd1.mrc", "--adjust_power", "odd2.mrc", "--o"]
    assert program(tmp_path, *words, "ours.mrc")[0] == 0
    command = [debian_relion("relion_image_handler"), *words, "theirs.mrc"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(read(tmp_path / "ours.mrc")[0], read(tmp_path / "theirs.mrc")[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("map.mrc/out.mrc", "ERROR: map.mrc: file exists; choose another name.\n"),
        ("parts", "ERROR: parts: is not a regular file and will not be replaced; choose another name.\n"),
    ],
)
def test_where_nothing_can_be_written(tmp_path: Path, name: str, sentence: str) -> None:
    """The sentence names what was asked for, not the temporary file that it is written to first."""
    write_map(tmp_path / "map.mrc", np.ones((8, 8, 8), np.float32), 2.0)
    (tmp_path / "parts").mkdir()
    code, _, err = program(tmp_path, "--i", "map.mrc", "--o", name, "--multiply_constant", "2")
    assert code == 1 and err == sentence


def test_statistics_tell_what_is_not_finite(tmp_path: Path) -> None:
    volume = np.ones((8, 8, 8), np.float32)
    volume[1, 2, 3] = np.inf
    write_map(tmp_path / "map.mrc", volume, 2.0)
    code, out, err = program(tmp_path, "--i", "map.mrc", "--stats")
    assert code == 0 and "maxval= inf" in out and err == ""


@pytest.mark.parametrize("flag", ["--avg_ampl", "--avg_ampl2"])
def test_average_amplitudes_as_debians_relion(pictures: Path, debian_relion: Callable[[str], str], flag: str) -> None:
    """Also the images whose amplitudes are evened out with them."""
    average = ["--i", "parts.star", flag]
    even = ["--i", "000003@parts.mrcs", "--angpix", "2", "--correct_avg_ampl", "theirs.mrc", "--minr_ampl_corr", "3"]
    for words, name in ((average, ""), (even, "_even")):
        command = [debian_relion("relion_image_handler"), *words, "--o", f"theirs{name}.mrc"]
        subprocess.run(command, cwd=pictures, check=True, capture_output=True)
        code, _, err = program(pictures, *words, "--o", f"ours{name}.mrc")
        assert code == 0, err
    for name, reach in (("", 1e-6), ("_even", 1e-5)):
        (ours, _), (theirs, _) = (
            read(pictures / f"ours{name}.mrc"),
            read(pictures / f"theirs{name}.mrc"),
        )
        np.testing.assert_allclose(ours, theirs, atol=reach, rtol=1e-4)


@pytest.mark.parametrize("unit", ["Angst", ""])
def test_squared_amplitudes_of_aligned_images_as_debians_relion(
    pictures: Path, debian_relion: Callable[[str], str], unit: str
) -> None:
    """It knows origins in pixels only."""
    rng, names = np.random.default_rng(8), star.read(pictures / "parts.star")["particles"].strings("rlnImageName")
    psi, origins = rng.uniform(-180, 180, len(names)), rng.uniform(-4, 4, (2, len(names)))
    for file, label, scale in (("theirs", "", 1.0), ("ours", unit, 2.0 if unit else 1.0)):
        table = Table({"rlnImageName": names, "rlnAnglePsi": psi})
        for axis, values in zip("XY", origins, strict=True):
            table.set(f"rlnOrigin{axis}{label}", values * scale)
        star.write(pictures / f"{file}.star", StarFile([("", table)]))
    code, _, err = program(pictures, "--i", "ours.star", "--avg_ampl2_ali", "--angpix", "2", "--o", "ours.mrc")
    assert code == 0, err
    command = [debian_relion("relion_image_handler"), "--i", "theirs.star", "--avg_ampl2_ali", "--o", "theirs.mrc"]
    subprocess.run(command, cwd=pictures, check=True, capture_output=True)
    (ours, _), (theirs, _) = read(pictures / "ours.mrc"), read(pictures / "theirs.mrc")
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.max())


def test_edge_as_debians_relion(pictures: Path, debian_relion: Callable[[str], str]) -> None:
    write_map(pictures / "mic.mrc", read_stack(pictures / "parts.mrcs")[0][0], 2.0)
    words = [
        "--i",
        "mic.mrc",
        *["--add_edge", "--edge_x0", "3", "--edge_y0", "2", "--edge_xF", "12", "--edge_yF", "10"],
    ]
    assert program(pictures, *words, "--o", "ours.mrc")[0] == 0
    command = [debian_relion("relion_image_handler"), *words, "--o", "theirs.mrc"]
    subprocess.run(command, cwd=pictures, check=True, capture_output=True)
    ours, theirs = read(pictures / "ours.mrc")[0], read(pictures / "theirs.mrc")[0]
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) == 10 * 9


def test_cosine_of_phases(pictures: Path) -> None:
    """1 with itself and with any filtered version, -1 with its negative, about 0 with noise."""
    for name, words in (("minus", ["--multiply_constant", "-1"]), ("sharp", ["--bfactor", "-30"])):
        assert program(pictures, "--i", "other.mrc", "--angpix", "2", "--o", f"{name}.mrc", *words)[0] == 0
    for other, least, most in (("sharp", 0.999, 1.001), ("minus", -1.001, -0.999), ("map", -0.5, 0.5)):
        _, out, _ = program(pictures, "--i", "other.mrc", "--angpix", "2", "--cos_dphi", f"{other}.mrc")
        cosines = star.parse(out)["cos"].floats("rlnFourierShellCorrelation")
        assert len(cosines) == 13 and ((least <= cosines[4:12]) & (cosines[4:12] <= most)).all()


def test_images_of_a_star_file(pictures: Path) -> None:
    words = ["--i", "parts.star", "--rescale_angpix", "4", "--angpix", "2", "--float16"]
    code, _, err = program(pictures, *words, "--o", "small")
    assert code == 0, err
    table = star.read(pictures / "parts_small.star")
    assert table["optics"].floats("rlnImagePixelSize")[0] == 4.0
    assert table["optics"].ints("rlnImageSize")[0] == 8
    names = table["particles"].strings("rlnImageName")
    assert names[:2] == ["000001@parts_small.mrcs", "000002@parts_small.mrcs"]
    assert program(pictures, *words, "--o", "small.mrcs")[0] == 0
    assert star.read(pictures / "small.star")["particles"].strings("rlnImageName")[4] == "000005@small.mrcs"
    images, _ = read_stack(pictures / "parts_small.mrcs")
    source, _ = read_stack(pictures / "parts.mrcs")
    assert images.shape == (50, 8, 8)
    spectrum, expected = np.fft.rfft2(images[4]), np.fft.rfft2(source[150 - 12 - 1])
    np.testing.assert_allclose(spectrum[:3, :3], expected[:3, :3] / 4, atol=0.02)


def test_bad_images_of_a_star_file_are_left_out(pictures: Path) -> None:
    table = star.read(pictures / "parts.star")
    names = table["particles"].strings("rlnImageName")
    names[1], names[2] = "000001@gone.mrcs", "000777@parts.mrcs"
    table["particles"].set("rlnImageName", names)
    star.write(pictures / "parts.star", table)
    code, _, err = program(pictures, "--i", "parts.star", "--o", "x2", "--multiply_constant", "2")
    assert code == 0, err
    assert "gone.mrcs is left out" in err and "000777@parts.mrcs is left out" in err
    changed = star.read(pictures / "parts_x2.star")["particles"].strings("rlnImageName")
    assert len(changed) == 48
    images, source = read_stack(pictures / "parts_x2.mrcs")[0], read_stack(pictures / "parts.mrcs")[0]
    np.testing.assert_allclose(images[1], 2 * source[150 - 9 - 1], rtol=1e-6)


def test_rectangular_micrograph_is_rescaled_evenly(tmp_path: Path) -> None:
    """A plane wave keeps its length in A along both axes."""
    y, x = np.mgrid[:96, :144]
    write_map(tmp_path / "mic.mrc", np.cos(2 * np.pi * (x / 12 + y / 16)).astype(np.float32), 1.0)
    code, _, err = program(tmp_path, "--i", "mic.mrc", "--o", "out.mrc", "--rescale_angpix", "2", "--angpix", "1")
    assert code == 0, err
    image, size = read(tmp_path / "out.mrc")
    image = image.squeeze()
    assert image.shape == (48, 72) and size == pytest.approx(2.0)
    y, x = np.mgrid[:48, :72]
    expected = np.cos(2 * np.pi * (x / 6 + y / 8))
    assert np.abs(image - expected)[6:-6, 6:-6].max() < 0.1


def test_reports(pictures: Path, debian_relion: Callable[[str], str]) -> None:
    command = [debian_relion("relion_image_handler"), "--i", "map.mrc", "--angpix", "2"]
    for flags in (["--stats"], ["--com"], ["--fsc", "other.mrc"]):
        code, out, err = program(pictures, "--i", "map.mrc", "--angpix", "2", *flags)
        assert code == 0, err
        theirs = subprocess.run([*command, *flags], cwd=pictures, check=True, capture_output=True, text=True).stdout
        if flags[0] == "--fsc":
            tables = [star.parse(text)["fsc"] for text in (out, theirs)]
            columns = [table.floats("rlnFourierShellCorrelation") for table in tables]
            np.testing.assert_allclose(columns[0], columns[1], atol=1e-4)
            continue
        numbers = [[word.rstrip(";") for word in text.replace(";", " ").split()] for text in (out, theirs)]
        for ours, other in zip(*numbers, strict=False):
            try:
                assert float(ours) == pytest.approx(float(other), rel=2e-4, abs=1e-6)
            except ValueError:
                assert ours == other


def test_guinier_and_power_of_a_known_map(tmp_path: Path) -> None:
    k = np.fft.fftfreq(32) / 1.5
    s2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k[:17] ** 2
    volume = np.fft.irfftn(np.exp(-80.0 / 4 * s2), s=(32,) * 3, axes=(0, 1, 2))
    write_map(tmp_path / "map.mrc", volume.astype(np.float32), 1.5)
    code, out, _ = program(tmp_path, "--i", "map.mrc", "--guinier", "--guinier_minres", "20", "--power")
    assert code == 0
    assert float(out.split("+ bfactor:")[1].split()[0]) == pytest.approx(80.0, abs=1.0)
    table = star.parse(out[out.index("data_power") :].split("  + slope")[0])["power"]
    fine = table.floats("rlnReferenceSpectralPower")
    assert fine[10] / fine[4] == pytest.approx(np.exp(-40.0 * (100 - 16) / 48.0**2), rel=0.05)


def test_filter_by_an_image_as_debians_relion(pictures: Path, debian_relion: Callable[[str], str]) -> None:
    """It is turned by the psi of each particle."""
    rng = np.random.default_rng(4)
    write_map(pictures / "factors.mrc", rng.uniform(0.5, 1.5, (16, 16)).astype(np.float32), 2.0)
    file = star.read(pictures / "parts.star")
    file["particles"].set("rlnAnglePsi", np.round(rng.uniform(-180, 180, len(file["particles"])), 3))
    star.write(pictures / "turned.star", file)
    words = ["--i", "turned.star", "--fourier_filter", "factors.mrc"]
    code, _, err = program(pictures, *words, "--o", "ours.mrcs")
    assert code == 0, err
    command = [debian_relion("relion_image_handler"), *words, "--o", "theirs.mrcs"]
    subprocess.run(command, cwd=pictures, check=True, capture_output=True)
    (ours, _), (theirs, _) = read(pictures / "ours.mrcs"), read(pictures / "theirs.mrcs")
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.std())


# RELION 5.0.1's colours of grey levels 0, 60, 100, 128, 180 and 254
COLOURS = {
    "": [(0, 0, 0), (60, 60, 60), (100, 100, 100), (128, 128, 128), (180, 180, 180), (254, 254, 254)],
    "fire": [(0, 0, 0), (120, 120, 120), (200, 200, 200), (255, 254, 254), (255, 150, 150), (255, 2, 2)],
    "ice": [(0, 255, 255), (0, 135, 135), (0, 55, 55), (0, 0, 0), (104, 104, 104), (252, 252, 252)],
    "fire-n-ice": [(0, 255, 255), (0, 75, 75), (45, 45, 45), (129, 129, 129), (255, 225, 225), (255, 4, 4)],
    "rainbow": [(0, 4, 255), (0, 244, 255), (0, 255, 107), (4, 255, 0), (212, 255, 0), (255, 3, 0)],
    "difference": [(0, 255, 255), (0, 78, 204), (0, 0, 84), (0, 0, 0), (156, 30, 0), (255, 252, 0)],
}


@pytest.mark.parametrize("scheme", COLOURS)
def test_colours_of_pictures_as_relion_5(tmp_path: Path, scheme: str) -> None:
    write_map(tmp_path / "ramp.mrc", np.arange(256, dtype=np.float32).reshape(16, 16), 1.0)
    words = ["--i", "ramp.mrc", "--o", "ramp.png", "--black", "-0.5", "--white", "254.5"]
    code, _, err = program(tmp_path, *words, *([f"--colour_{scheme}"] if scheme else []))
    assert code == 0, err
    picture = imagecodecs.png_decode((tmp_path / "ramp.png").read_bytes())
    assert picture.shape == (16, 16, 3)
    assert [tuple(picture.reshape(-1, 3)[level]) for level in (0, 60, 100, 128, 180, 254)] == COLOURS[scheme]


def test_contrast_of_pictures(tmp_path: Path) -> None:
    image = np.random.default_rng(1).normal(5, 2, (40, 30)).astype(np.float32)
    write_map(tmp_path / "noise.mrc", image, 1.0)
    for flags, low, high in (([], image.min(), image.max()), (["--sigma_contrast", "2"], 1.0, 9.0)):
        code, _, err = program(tmp_path, "--i", "noise.mrc", "--o", "noise.png", *flags)
        assert code == 0, err
        grey = imagecodecs.png_decode((tmp_path / "noise.png").read_bytes())[..., 0]
        expected = np.clip((image - low) / (high - low) * 255, 0, 255)
        assert np.abs(grey - expected).max() < 6  # the sample's own mean and deviation
        assert grey.min() == 0 and grey.max() == 255


def test_average_and_random_phases(pictures: Path) -> None:
    assert program(pictures, "--i", "parts.mrcs", "--o", "mean.mrc", "--average")[0] == 0
    source, _ = read_stack(pictures / "parts.mrcs")
    np.testing.assert_allclose(read(pictures / "mean.mrc")[0].squeeze(), source.mean(0), atol=1e-6)
    words = ["--i", "map.mrc", "--o", "random.mrc", "--phase_randomise", "8", "--random_seed", "1"]
    assert program(pictures, *words)[0] == 0
    before, after = (np.fft.rfftn(read(pictures / name)[0]) for name in ("map.mrc", "random.mrc"))
    np.testing.assert_allclose(after[:4, :4, :4], before[:4, :4, :4], atol=1e-3)
    np.testing.assert_allclose(abs(after[3:9, 7, 1:9]), abs(before[3:9, 7, 1:9]), atol=1e-3)
    assert abs(after[3:9, 7, 1:9] - before[3:9, 7, 1:9]).max() > 0.1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--i map.mrc --lowpass 10", "--o"),
        ("--i gone.mrc --o x.mrc", "no such file"),
        ("--i map.mrc --o x.mrc --multiply parts.mrcs", "differs in size"),
        ("--i map.mrc --o x.mrc --flipXY", "Only 2D images"),
        ("--i map.mrc --o x.mrc --sym X9", "X9"),
        ("--i map.mrc --o x.mrc --fourier_filter parts.mrcs", "differs in size"),
        ("--i map.mrc --o x.mrc --average_all_movie_frames", "not available"),
        ("--i map.mrc --o x.png", "Only a 2D image"),
        ("--i parts.mrcs --o x.png", "Only one image"),
        ("--i map.mrc --o x.mrc --colour_fire", "is for pictures"),
        ("--i parts.star --o ../x --add_constant 1", "must not be a path"),
        ("--i map.mrc --o 3@x.mrcs", "without"),
        ("--i map.mrc --o x.mrc --divide_constant 0", "must not be 0"),
        ("--i cut.mrc --o x.mrc", "cut.mrc"),
    ],
)
def test_mistakes(pictures: Path, words: str, sentence: str) -> None:
    (pictures / "cut.mrc").write_bytes((pictures / "map.mrc").read_bytes()[:5000])
    code, _, err = program(pictures, *words.split(), "--pipeline_control", "./")
    assert code == 1
    assert sentence in err and "Traceback" not in err
    assert not list(pictures.glob("x.*"))
