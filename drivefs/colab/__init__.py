"""Functions with the signatures and messages of ``google.colab``, for notebooks. Imports ``drivefs.client`` only."""

from __future__ import annotations

from drivefs.colab import drive

__all__ = ["drive"]
