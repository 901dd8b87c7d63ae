"""What works on this machine, and how to mend what does not."""

from __future__ import annotations

from hpcsamp.doctor.check import Check
from hpcsamp.doctor.examination import Diagnosis, examine
from hpcsamp.doctor.ranks import RankPlace

__all__ = ["Check", "Diagnosis", "RankPlace", "examine"]
