"""Every command, its one line of help, the module that holds it, and the extra it needs.

A command module has two functions:

    configure(parser: ArgumentParser) -> None      arguments and a `--help` that teaches
    run(args: Namespace, output: Output) -> int    do it; return an exit code or raise SkerryError

It is imported only when its command is called.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One command of the table."""

    name: str
    help: str
    module: str
    extra: str


COMMANDS = (
    Entry(
        "convert",
        "make a bundle of artifacts from a model, by a recipe",
        "skerry.converter.commands.convert",
        "converter",
    ),
    Entry(
        "train",
        "run the training steps of a recipe alone, as on a machine with a GPU",
        "skerry.converter.commands.train",
        "converter",
    ),
    Entry(
        "search",
        "search recipes for the best model within budgets",
        "skerry.converter.commands.search",
        "search",
    ),
    Entry("inspect", "show what a bundle holds", "skerry.runtime.commands.inspect", "onnx"),
    Entry(
        "verify",
        "check every digest of a bundle and run its golden samples",
        "skerry.runtime.commands.verify",
        "onnx",
    ),
    Entry("diff", "compare two bundles", "skerry.runtime.commands.diff", "onnx"),
    Entry(
        "predict", "score a file of inputs with a bundle", "skerry.runtime.commands.predict", "onnx"
    ),
    Entry("run", "serve a bundle over HTTP", "skerry.runtime.commands.run", "device"),
    Entry(
        "bench",
        "measure how fast a bundle answers on this machine",
        "skerry.bench.command",
        "bench",
    ),
    Entry(
        "delta",
        "make, apply or explain a patch between two files",
        "skerry.updater.delta.command",
        "device",
    ),
    Entry(
        "keys",
        "make and keep the signing keys of a release repository",
        "skerry.updater.repository.commands.keys",
        "device",
    ),
    Entry(
        "release",
        "sign a bundle as a release and publish it",
        "skerry.updater.repository.commands.release",
        "device",
    ),
    Entry(
        "fleet",
        "serve a fleet, watch it, and roll releases out",
        "skerry.updater.server.command",
        "server",
    ),
    Entry(
        "agent",
        "enrol this device and keep its model right",
        "skerry.updater.agent.command",
        "device",
    ),
)
