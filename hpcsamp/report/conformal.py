"""Sentences on conformal intervals and sets: the stated coverage beside the observed one."""

from __future__ import annotations

import math
from typing import Any

from hpcsamp.report.records import EvaluationRecord


def sentences(evaluation: EvaluationRecord) -> list[str]:
    """Return a paragraph for each target with a conformal threshold; none if there is none.

    Over calibration sets of n items, the coverage has a beta distribution with mean ``c`` and
    variance ``c (1 - c) / (n + 2)`` (Vovk 2012; Angelopoulos & Bates 2023, section 3.2).
    """
    facts = evaluation.recalibration
    if facts.get("used") != "yes":
        return []
    each = {name: of for name, of in facts.items() if isinstance(of, dict)} or {"": facts}
    return [
        _sentence(evaluation, name, of, str(facts["split"]))
        for name, of in each.items()
        if "score" in of
    ]


def _sentence(evaluation: EvaluationRecord, name: str, of: dict[str, Any], split: str) -> str:
    start = f"{name}/" if name else ""
    metrics, items, stated = evaluation.metrics, int(of["items"]), float(of["coverage"])
    kind = "sets" if f"{start}conformal_size" in metrics else "intervals"
    least = "at least " if kind == "sets" else ""  # the most probable class always belongs to it
    scatter = math.sqrt(stated * (1 - stated) / (items + 2))
    text = f"{name}: " if name else ""
    text += (
        f"The conformal {kind} ({of['score']}) state a coverage of {least}{stated:.3f}, from "
        f"{items} calibration items of {split}. Observed on {evaluation.split}: "
        f"{metrics[f'{start}conformal_coverage']:.3f}. Between calibration sets of this size, the "
        f"coverage varies by about {scatter:.2g} (one standard deviation)."
    )
    if kind == "sets":
        return f"{text} A set has {metrics[f'{start}conformal_size']:.3g} classes on average."
    width, unit = f"{start}conformal_width", evaluation.units.get(f"{start}conformal_width", "")
    text += f" The mean width of an interval is {metrics[width]:.4g} {unit}".rstrip() + "."
    if "adaptive_rate" in of:
        text += (
            f" The thresholds adapt to the observed coverage at a rate of {of['adaptive_rate']:g}."
        )
    return text
