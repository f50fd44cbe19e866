"""A search from end to end: propose a wave, try it rung by rung, keep what none beats.

Everything that was learned is in the journal before anything follows from it. Killed and begun
again, a search reads the journal, proposes the same trials, and goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from skerry.converter.cache import fingerprint
from skerry.converter.folder import only_writer
from skerry.converter.loading import load
from skerry.converter.recipe import Recipe, Search
from skerry.converter.recipe_file import RecipeFile, check_document
from skerry.converter.report.search import build_search_report
from skerry.converter.search.budget import Budget
from skerry.converter.search.contents import contents
from skerry.converter.search.front import promoted
from skerry.converter.search.journal import Entry, Header, Journal
from skerry.converter.search.latency import latency_table
from skerry.converter.search.outcome import SearchResult, summary
from skerry.converter.search.proposals import propose
from skerry.converter.search.space import Domain, assign, read_space
from skerry.converter.search.trial import Task, judged, run_task
from skerry.converter.search.workers import Workers
from skerry.devices.errors import InputError, RecipeError, UnavailableError
from skerry.devices.files import write_atomically
from skerry.devices.output import Output, Progress

__all__ = ["Wanted", "search"]

_ATTEMPTS = 32  # at a proposal that was not made before
_HAND_WRITTEN = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a search.

    Attributes:
        budgets: what the best must be within.
        trials: how many candidates, the recipe as it was written among them.
        measured: whether latency is measured, or counted.
    """

    budgets: tuple[Budget, ...]
    trials: int
    measured: bool


def search(
    path: Path,
    document: Mapping[str, Any],
    wanted: Wanted,
    workers: Workers,
    out: Path,
    output: Output,
) -> SearchResult:
    """Search around a recipe.

    Args:
        path, document: the recipe, with `[search]`.
        out: gets `candidates/`, `journal.jsonl`, `report.html` and `search.json`.

    Raises:
        InputError: the recipe, its space, model or data cannot be used, `out` belongs to a search
            of others, or no candidate could be made.
        UnavailableError: the disk is full or not writable, or another process writes to `out`.
    """
    with only_writer(out):
        run = _Run(path, document, wanted, workers, out, output)
        with output.progress("searching", run.total) as progress:
            run.all(progress)
        result = run.result()
        write_atomically(out / "report.html", build_search_report(result))
        write_atomically(out / "search.json", result.encode())
    return result


class _Run:
    """One search: what it is about, and what its journal says so far."""

    def __init__(
        self,
        path: Path,
        document: Mapping[str, Any],
        wanted: Wanted,
        workers: Workers,
        out: Path,
        output: Output,
    ) -> None:
        self._path, self._document = path.resolve(), dict(document)
        self._file = check_document(path, document)
        self._how = _how(self._file)
        self._space = _checked_space(path, document, self._how.space)
        self._wanted, self._workers, self._out = wanted, workers, out.resolve()
        recipe = self._file.recipe
        form, precision = judged(recipe)
        self._artifact = f"{form}-{precision}"
        if not wanted.measured or len(self._how.rungs) > 1:
            latency_table(recipe.target.profile, form)
        with output.progress("loading model and data"):
            named = contents(load(self._file), self._space)
        header = Header(
            recipe=fingerprint(self._document),
            budgets=tuple(budget.text for budget in wanted.budgets),
            seed=self._how.seed,
            latency="measured" if wanted.measured else "counted",
            contents=named,
        )
        self._journal = Journal(self._out / "journal.jsonl", header)
        self._values: dict[int, dict[str, Any]] = {}

    @property
    def total(self) -> int:
        """How many trials there are to be, at most."""
        return self._wanted.trials

    def all(self, progress: Progress) -> None:
        """Wave after wave, until there are enough trials or no new ones."""
        for first in range(0, self._wanted.trials, self._how.wave):
            wave = range(first, min(first + self._how.wave, self._wanted.trials))
            proposed = [number for number in wave if self._propose(number, first)]
            self._climb(proposed, progress)
            if len(proposed) < len(wave):
                return

    def result(self) -> SearchResult:
        """What the journal amounts to.

        Raises:
            InputError: no candidate could be made.
        """
        last = len(self._how.rungs) - 1
        entries = {key: one for key, one in self._journal.entries.items() if key[0] in self._values}
        if not any(rung == last and one.merit for (_, rung), one in entries.items()):
            problems = [one.problem for one in entries.values() if one.problem]
            raise InputError(
                "no candidate could be made" + (f": {problems[0]}" if problems else ""),
                where=self._path,
                remedy="convert the recipe as it is first",
            )
        recipe = self._file.recipe
        return summary(
            entries,
            last,
            self._wanted.budgets,
            model=recipe.model.name,
            artifact=self._artifact,
            metric=recipe.data.metric,
            latency="measured" if self._wanted.measured else "counted",
        )

    def _propose(self, number: int, first: int) -> bool:
        """Settle the values of a trial; False where nothing new was found."""
        taken = {fingerprint(assign(self._document, one)) for one in self._values.values()}
        if number == _HAND_WRITTEN:
            self._values[number] = _as_written(self._file.recipe, self._space)
            return True
        known = self._known(first)
        for attempt in range(_ATTEMPTS):
            draw = number * _ATTEMPTS + attempt
            values = propose(self._space, known, self._wanted.budgets, self._how.seed, draw)
            if fingerprint(assign(self._document, values)) not in taken:
                self._values[number] = values
                return True
        return False

    def _known(self, first: int) -> list[Entry]:
        """The furthest entry of each trial of earlier waves."""
        furthest: dict[int, Entry] = {}
        for (trial, _), entry in sorted(self._journal.entries.items()):
            if trial < first:
                furthest[trial] = entry
        return [furthest[trial] for trial in sorted(furthest)]

    def _climb(self, wave: Sequence[int], progress: Progress) -> None:
        """Try a wave's trials on each rung, and let the better ones go on."""
        going = list(wave)
        for rung, share in enumerate(self._how.rungs):
            self._try(going, rung, share, progress)
            merits = {
                trial: entry.merit
                for (trial, at), entry in self._journal.entries.items()
                if at == rung and trial <= max(wave, default=-1) and entry.merit is not None
            }
            good = [trial for trial in going if trial in merits]
            progress.advance(len(going) - len(good))
            if rung + 1 == len(self._how.rungs):
                progress.advance(len(good))
                return
            chosen = promoted(good, merits, self._wanted.budgets, self._how.keep) if good else ()
            going = [trial for trial in good if trial in chosen or trial == _HAND_WRITTEN]
            progress.advance(len(good) - len(going))

    def _try(self, trials: Sequence[int], rung: int, share: float, progress: Progress) -> None:
        """Run what the journal lacks."""
        running: list[Future[bytes]] = []
        for trial in trials:
            if (trial, rung) not in self._journal.entries:
                task = msgspec.json.encode(self._task(trial, rung, share))
                running.append(self._workers.submit(run_task, task))
        for future in as_completed(running):
            try:
                answer = future.result()
            except self._workers.losses as error:
                raise UnavailableError(
                    "a worker was lost",
                    where=self._out,
                    remedy="the same command goes on; where memory ran out, give fewer --jobs",
                ) from error
            entry = msgspec.json.decode(answer, type=Entry)
            self._journal.record(entry)
            progress.advance(0, _word(entry, share))

    def _task(self, trial: int, rung: int, share: float) -> Task:
        values = self._values[trial]
        return Task(
            trial=trial,
            rung=rung,
            values=values,
            recipe=str(self._path),
            document=assign(self._document, values if trial != _HAND_WRITTEN else {}),
            share=share,
            measured=self._wanted.measured,
            cache=str(self._out / "cache"),
            kept=str(self._out / "candidates" / f"{trial:04d}"),
        )


def _word(entry: Entry, share: float) -> str:
    if entry.merit is None:
        return f"trial {entry.trial}: {entry.problem}"
    how = "" if share == 1 else f" at {share:g}"
    merit = entry.merit
    return f"trial {entry.trial}{how}: {merit.metric:.2f}, {merit.bytes_ratio:.3f}× the bytes"


def _how(file: RecipeFile) -> Search:
    """The recipe's search table."""
    if file.recipe.search is None:
        raise file.wrong(
            "search.space",
            "missing",
            'say what may change, such as "step[0].epochs" = { low = 4, high = 16 }',
        )
    found = file.recipe.search
    if list(found.rungs) != sorted(set(found.rungs)) or found.rungs[-1] != 1:
        raise file.wrong(
            "search.rungs", f"{list(found.rungs)} do not rise to 1", "write such as [0.25, 1.0]"
        )
    return found


def _checked_space(
    path: Path, document: Mapping[str, Any], table: Mapping[str, Any]
) -> dict[str, Domain]:
    """The space, each of its values tried in the recipe before any work."""
    space = read_space(table, str(path))
    for key, domain in space.items():
        for value in domain.ends():
            where = f"{path}: search.space: {key}"
            try:
                made = assign(document, {key: value})
            except KeyError as error:
                raise RecipeError(
                    f"the recipe has no {error.args[0]}", where=where, remedy="correct the key"
                ) from error
            try:
                check_document(path, made)
            except RecipeError as error:
                problem = f"{value!r}: {error.problem}"
                raise RecipeError(problem, where=where, remedy=error.remedy) from error
    return space


def _as_written(recipe: Recipe, space: Mapping[str, Domain]) -> dict[str, Any]:
    """What the recipe itself has under the space's keys."""
    plain = msgspec.to_builtins(recipe)
    found: dict[str, Any] = {}
    for key in space:
        value: Any = plain
        for part in key.replace("[", ".").replace("]", "").split("."):
            is_list = isinstance(value, list | tuple)
            value = value[int(part)] if is_list else value.get(part)
        found[key] = True if isinstance(value, dict) else value
    return found
