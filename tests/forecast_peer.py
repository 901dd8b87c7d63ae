"""Scores of forecasts beside those of scoringrules and properscoring, where these are installed:

pip install scoringrules properscoring; python tests/forecast_peer.py
"""

from __future__ import annotations

import numpy as np

from hpcsamp.metrics.forecasts import ForecastSums, item_scores, item_sums, region_weights


def main() -> None:
    """Print the largest relative difference of each score."""
    import properscoring
    import scoringrules

    generator = np.random.default_rng(1)
    members = generator.normal(280, 3, (7, 5, 6, 12))
    observed, initial = generator.normal(280, 3, (2, 5, 6, 12))
    mean, std = np.full((6, 12), 280.0), np.full((6, 12), 3.0)
    latitude = np.linspace(-75, 75, 6)
    areas = region_weights(latitude, np.cos(np.deg2rad(latitude)))
    sums = ForecastSums(1, 1, 7, 12)
    sums.add(0, 0, members, observed, initial, mean, std, areas)
    sums.add_items(0, 0, *item_scores(item_sums(members, observed, mean, areas[0]), 7))
    found = sums.result()
    ours = {name: float(v[0, 0]) for name, v in found["regions"]["global"].items()}
    weights = np.broadcast_to(areas[0][:, None], observed.shape)

    def over(x: np.ndarray) -> float:
        return float((x * weights).sum() / weights.sum())

    last = np.moveaxis(members, 0, -1)
    exceeds = members > mean + std
    theirs = {
        "crps": over(properscoring.crps_ensemble(observed, last)),
        "crps_fair": over(scoringrules.crps_ensemble(observed, last, estimator="fair")),
        "brier": over(
            scoringrules.brier_score((observed > mean + std).astype(float), exceeds.mean(0))
        ),
        "pinball_0.5": over(scoringrules.quantile_score(observed, np.median(members, 0), 0.5)),
    }
    scale = np.sqrt(weights[0] / weights[0].sum()).ravel()
    fields = np.moveaxis(members.reshape(7, 5, -1) * scale, 0, 1)
    energy = scoringrules.es_ensemble(observed.reshape(5, -1) * scale, fields, estimator="fair")
    ours["energy_score"] = float(found["energy_score"][0, 0])
    theirs["energy_score"] = float(np.mean(energy))
    for name, value in theirs.items():
        difference = abs(ours[name] / value - 1)
        print(f"{name}: {ours[name]:.15g}, peer {value:.15g}, relative difference {difference:.1e}")
        assert difference < 1e-10, name


if __name__ == "__main__":
    main()
