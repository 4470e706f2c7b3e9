"""Pictures of one run, from its metrics and its checkpoints. Needs matplotlib."""

from __future__ import annotations

import importlib.util


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None
