"""A B-factor and a scale of the CTF, per particle or per micrograph, from amplitudes by shell.

Facts: RELION 5, jaz/single_particle/ctf/bfactor_refiner.cpp (processMicrograph, findBKRec1D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine.particles import Views
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.image.fourier import shell_of

Array = NDArray[np.float64]

_STEPS, _DEPTH = 20, 5
_TINY = 1e-10


@dataclass(frozen=True)
class BfactorSettings:
    """Bounds: smallest and largest B-factor (A^2) of the search, smallest scale; one fit for each micrograph."""

    smallest: float = -30.0
    largest: float = 300.0
    smallest_scale: float = 0.2
    per_micrograph: bool = False


def fit_bfactors(
    views: Sequence[Views], params: Sequence[CtfParams], weights: Sequence[Array], settings: BfactorSettings
) -> list[CtfParams]:
    """The CTFs of one micrograph with B-factor and scale replaced by fitted ones.

    views, params, weights (P,): one of each for each optics group.  As in the reference, the smallest B-factor of
    the search is subtracted from what is found, so that none is negative.
    """
    sums = [_by_shell(v, p, w) for v, p, w in zip(views, params, weights, strict=True)]
    if settings.per_micrograph:  # shells of the optics group with the smallest pixels
        finest = min(views, key=lambda v: v.optics.angpix).optics
        shells = finest.box // 2 + 1
        power, agreement = np.zeros((1, shells)), np.zeros((1, shells))
        for v, (p, a) in zip(views, sums, strict=True):
            place = np.floor(finest.length / v.optics.length * np.arange(p.shape[1]) + 0.5).astype(int)
            fits = place < shells
            np.add.at(power[0], place[fits], p.sum(axis=0)[fits])
            np.add.at(agreement[0], place[fits], a.sum(axis=0)[fits])
        found = search(power, agreement, finest.length, settings)
        values = [tuple(np.repeat(part, len(p)) for part in found) for p in params]
    else:
        values = [search(*s, v.optics.length, settings) for v, s in zip(views, sums, strict=True)]  # type: ignore[misc]
    return [
        replace(p, bfactor=bfactor - settings.smallest, scale=scale)
        for p, (bfactor, scale) in zip(params, values, strict=True)
    ]


def _by_shell(views: Views, params: CtfParams, weight: Array) -> tuple[Array, Array]:
    """Sums (n, shells) of weight |CTF P|^2 and weight CTF Re(P* X)."""
    optics = views.optics
    plain = replace(params, bfactor=np.zeros(len(params)), scale=np.ones(len(params)))
    ctf = optics.ctf(plain, damping=False)
    shells, count = shell_of(optics.kx, optics.ky), optics.box // 2 + 1
    power, agreement = np.empty((len(params), count)), np.empty((len(params), count))
    for n in range(len(params)):
        power[n] = np.bincount(shells, weight * ctf[n] ** 2 * views.power[n], minlength=count)[:count]
        agreement[n] = np.bincount(shells, weight * ctf[n] * views.agreement[n], minlength=count)[:count]
    return power, agreement


def search(power: Array, agreement: Array, length: float, settings: BfactorSettings) -> tuple[Array, Array]:
    """B-factors (A^2) and scales (n,) that bring scale * exp(-B/4 s^2) nearest to agreement / power (n, shells).

    A grid of 20 B-factors, refined five times about the best one; length: side of the box in A.
    """
    s2 = (np.arange(power.shape[1]) / length) ** 2
    low = np.full(len(power), settings.smallest)
    high = np.full(len(power), settings.largest)
    every = np.arange(len(power))
    for depth in range(_DEPTH + 1):
        trial = low[:, None] + (high - low)[:, None] * np.arange(_STEPS) / (_STEPS - 1)  # (n, steps)
        decay = np.exp(-0.25 * trial[:, :, None] * s2)
        along = np.einsum("ns,nts->nt", agreement, decay)
        norm = np.einsum("ns,nts->nt", power, decay * decay)
        scale = np.maximum(along / np.maximum(norm, _TINY * max(1.0, float(norm.max()))), settings.smallest_scale)
        best = np.argmin(scale * (scale * norm - 2.0 * along), axis=1)
        bfactor = trial[every, best]
        if depth < _DEPTH:
            half = (high - low) / (_STEPS - 1)
            low, high = np.maximum(low, bfactor - half), np.minimum(high, bfactor + half)
    return bfactor, scale[every, best]
