"""Checks of the installation and the machine, with advice on how to fix each fault."""

from __future__ import annotations

from hpcsamp.doctor.check import Check
from hpcsamp.doctor.examination import Diagnosis, examine
from hpcsamp.doctor.ranks import RankPlace

__all__ = ["Check", "Diagnosis", "RankPlace", "examine"]
