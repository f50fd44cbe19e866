"""Patches between two files, and above all between two versions of a model."""

from skerry.updater.delta.applying import apply
from skerry.updater.delta.chaining import chain
from skerry.updater.delta.creating import create
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.patching import Checkpoint
from skerry.updater.delta.stat import DeltaStat, Part, stat

__all__ = ["Checkpoint", "DeltaStat", "Limits", "Part", "apply", "chain", "create", "stat"]
