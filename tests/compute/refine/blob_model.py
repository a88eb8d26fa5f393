"""A known truth: Gaussian blobs, whose map and whose transform are both written down exactly, in float64."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Blobs:
    """centres (B, 3) x, y, z in pixels from the origin; heights (B,); sigma in pixels."""

    centres: np.ndarray
    heights: np.ndarray
    sigma: float

    @classmethod
    def random(cls, seed: int, count: int = 12, reach: float = 8.0, sigma: float = 1.5) -> "Blobs":
        rng = np.random.default_rng(seed)
        return cls(rng.uniform(-reach, reach, (count, 3)), rng.uniform(0.5, 1.5, count), sigma)

    def map(self, box: int) -> np.ndarray:
        """float32 (box,) * 3 indexed z, y, x, origin at box // 2."""
        axis = np.arange(box) - box // 2
        volume = np.zeros((box,) * 3)
        for (x, y, z), height in zip(self.centres, self.heights, strict=True):
            along = [np.exp(-((axis - c) ** 2) / (2 * self.sigma**2)) for c in (z, y, x)]
            volume += height * np.einsum("i,j,k->ijk", *along)
        return volume.astype(np.float32)

    def slices(self, rotations: np.ndarray, kx: np.ndarray, ky: np.ndarray, box: int) -> np.ndarray:
        """Transforms / box^2 of the projections, complex128 (R, P): direct sums over the blobs."""
        seen = np.einsum("rij,bj->rbi", rotations, self.centres)
        phase = seen[..., 0, None] * kx + seen[..., 1, None] * ky
        envelope = (2 * np.pi) ** 1.5 * self.sigma**3
        envelope = envelope * np.exp(-2 * (np.pi * self.sigma / box) ** 2 * (kx * kx + ky * ky)) / box**2
        return np.einsum("b,rbp->rp", self.heights, np.exp(-2j * np.pi * phase / box)) * envelope


def disc(r_max: int, *, friedel_pairs: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (kx, ky), int32 (P,) each, within `r_max`; both members of the pairs at kx == 0 if wanted."""
    ky, kx = np.mgrid[-r_max : r_max + 1, 0 : r_max + 1].astype(np.int32)
    keep = (kx * kx + ky * ky <= r_max * r_max) & (friedel_pairs | (kx > 0) | (ky >= 0))
    return kx[keep], ky[keep]


def random_rotations(count: int, seed: int) -> np.ndarray:
    """Uniform rotations, float64 (count, 3, 3), from unit quaternions."""
    q = np.random.default_rng(seed).standard_normal((count, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ],
        axis=1,
    )


def shell_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of two maps by plain FFTs, float64 (box // 2 + 1,)."""
    box = len(first)
    k = np.fft.fftfreq(box, 1 / box)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)).astype(int).ravel()
    a, b = np.fft.fftn(first), np.fft.fftn(second)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values.ravel())[: box // 2 + 1]

    return total((a * b.conj()).real) / np.sqrt(total(abs(a) ** 2) * total(abs(b) ** 2))


def image_from_slice(values: np.ndarray, kx: np.ndarray, ky: np.ndarray, box: int) -> np.ndarray:
    """Real image (box, box), origin at box // 2, of a transform / box^2 given with both mates at kx == 0."""
    half = np.zeros((box, box // 2 + 1), np.complex128)
    half[ky % box, kx] = values * np.exp(-2j * np.pi * (kx + ky) * (box // 2) / box)
    return np.fft.irfft2(half, (box, box)) * box**2


def slice_of_image(image: np.ndarray, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """Transform / box^2 of images (..., box, box) with origin at box // 2, at pixels kx, ky."""
    box = image.shape[-1]
    half = np.fft.rfft2(image)[..., ky % box, kx] / box**2
    return half * np.exp(2j * np.pi * (kx + ky) * (box // 2) / box)
