"""Scores of forecasts beside those of scoringrules, properscoring, xskillscore and scipy:

pip install scoringrules properscoring xskillscore scipy; python tests/forecast_peer.py
"""

from __future__ import annotations

import numpy as np

from hpcsamp.metrics.forecasts import (
    ALPHA,
    LEVELS,
    REGIONS,
    ForecastSums,
    item_scores,
    item_sums,
    region_weights,
)

M, N, H, W = 7, 5, 6, 12
LATITUDE = np.linspace(-75, 75, H)


def main() -> None:
    """Print the largest relative difference of each score."""
    generator = np.random.default_rng(1)
    members = generator.normal(280, 3, (M, N, H, W))
    observed, initial = generator.normal(280, 3, (2, N, H, W))
    mean, std = generator.normal(280, 1, (H, W)), np.full((H, W), 3.0)
    areas = region_weights(LATITUDE, np.cos(np.deg2rad(LATITUDE)))
    sums = ForecastSums(1, 1, M, W)
    sums.add(0, 0, members, observed, initial, mean, std, areas)
    sums.add_items(0, 0, *item_scores(item_sums(members, observed, mean, areas[0]), M))
    found = sums.result()
    for region, (low, high) in REGIONS.items():
        within = (low <= LATITUDE) & (high >= LATITUDE)
        parts = [x[..., within, :] for x in (members, observed, initial, mean, std)]
        ours = {name: v[0, 0] for name, v in found["regions"][region].items()}
        theirs = of_points(*parts, areas[0, within])
        assert ours.keys() == theirs.keys()
        compare(region, ours, theirs)
    ours = {name: found[name][0, 0] for name in ("acc", "energy_score", "rank_histogram")}
    ours |= {f"reliability {n}": np.squeeze(v) for n, v in found["reliability"].items()}
    ours |= {f"spectra {name}": v[0, 0] for name, v in found["spectra"].items()}
    with np.errstate(invalid="ignore"):  # no forecast in a bin of the reliability
        theirs = of_fields(members, observed, mean, std, areas[0])
    compare("global", ours, theirs)


def compare(where: str, ours: dict, theirs: dict) -> None:
    """Print and check the differences."""
    for name, value in theirs.items():
        assert (np.isnan(ours[name]) == np.isnan(value)).all(), (where, name)
        with np.errstate(invalid="ignore"):  # 0 / 0
            difference = np.nanmax(np.abs(ours[name] - value) / np.abs(value))
        print(f"{where} {name}: relative difference {difference:.1e}")
        assert difference < 1e-10, (where, name)


def of_points(members, observed, initial, mean, std, area) -> dict:
    """Means over points by the peers."""
    import properscoring
    import scoringrules
    import xarray as xr
    import xskillscore as xs

    dims = ("item", "latitude", "longitude")
    weights = xr.DataArray(np.broadcast_to(area[:, None], observed.shape), dims=dims)

    def field(x: np.ndarray) -> xr.DataArray:
        return xr.DataArray(np.broadcast_to(x, observed.shape), dims=dims)

    def over(x: np.ndarray) -> float:
        return float(field(x).weighted(weights).mean())

    def by(score, x: np.ndarray) -> float:
        return float(score(field(x), field(observed), dim=list(dims), weights=weights))

    last, centre = np.moveaxis(members, 0, -1), members.mean(0)
    fair, plain = (
        over(scoringrules.crps_ensemble(observed, last, estimator=of)) for of in ("fair", "nrg")
    )
    variance = xr.DataArray(members, dims=("member", *dims)).var("member", ddof=1)
    spread = np.sqrt(float(variance.weighted(weights).mean()))
    event, chance = field(observed > mean + std), field((members > mean + std).mean(0))
    return {
        "rmse": by(xs.rmse, centre),
        "bias": by(xs.me, centre),
        "spread": spread,
        "spread_skill": np.sqrt((M + 1) / M) * spread / by(xs.rmse, centre),
        "crps": over(properscoring.crps_ensemble(observed, last)),
        "crps_fair": fair,
        "crps_almost_fair": ALPHA * fair + (1 - ALPHA) * plain,
        "brier": float(xs.brier_score(event, chance, dim=list(dims), weights=weights)),
        "rmse_persistence": by(xs.rmse, initial),
        "rmse_climatology": by(xs.rmse, mean),
        "mae_persistence": by(xs.mae, initial),
        "mae_climatology": by(xs.mae, mean),
        **{
            f"pinball_{level:g}": over(
                scoringrules.quantile_score(observed, np.quantile(members, level, 0), level)
            )
            for level in LEVELS
        },
    }


def of_fields(members, observed, mean, std, area) -> dict:
    """Scores of whole fields, and distributions over points, by the peers."""
    import scoringrules
    import xarray as xr
    import xskillscore as xs
    from scipy.signal import periodogram
    from scipy.spatial.distance import cosine

    weights = np.broadcast_to(area[:, None], (H, W)).ravel() / area.sum() / W
    anomalies = members.mean(0) - mean, observed - mean
    cosines = [1 - cosine(a.ravel(), o.ravel(), weights) for a, o in zip(*anomalies, strict=True)]
    fields = np.moveaxis((members.reshape(M, N, -1) * np.sqrt(weights)), 0, 1)
    energy = scoringrules.es_ensemble(
        observed.reshape(N, -1) * np.sqrt(weights), fields, estimator="fair"
    )
    dims = ("item", "latitude", "longitude")
    truth, states = xr.DataArray(observed, dims=dims), xr.DataArray(members, dims=("member", *dims))
    ranks = xs.rank_histogram(truth, states, dim=["item", "longitude"]).values
    event = xr.DataArray(observed > mean + std, dims=dims)
    chance = (states > mean + std).mean("member")
    edges = (np.arange(M + 2) - 0.5) / M
    of = xs.reliability(event, chance, ["item", "longitude"], edges)
    count = (of.samples.values * area[:, None]).sum(0)
    seen = np.nansum(of.samples.values * of.values * area[:, None], 0)

    def spectrum(x: np.ndarray) -> np.ndarray:
        power = periodogram(x, scaling="spectrum", detrend=False, return_onesided=False)[1]
        return np.tensordot(power.reshape(-1, H, W)[..., : W // 2 + 1].mean(0), area, (0, 0))

    return {
        "acc": np.mean(cosines),
        "energy_score": np.mean(energy),
        "rank_histogram": area @ ranks / (N * W * area.sum()),
        "reliability forecast": of.forecast_probability.values,
        "reliability observed": seen / count,
        "reliability weight": count / count.sum(),
        "spectra members": spectrum(members) / area.sum(),
        "spectra observed": spectrum(observed) / area.sum(),
    }


if __name__ == "__main__":
    main()
