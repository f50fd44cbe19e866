"""What a search is of, besides its recipe: the files, the model and the rows that it names.

A journal notes it down, so that scores of other rows or another model are never taken for these.
"""

from __future__ import annotations

from skerry.converter.cache import dataset_fingerprint, file_fingerprints, module_fingerprint
from skerry.converter.loading import Loaded
from skerry.converter.search.space import Space

__all__ = ["contents"]

_ROWS = {".npz", ".parquet", ".tar"}  # known by their rows, not by their bytes


def contents(loaded: Loaded, space: Space) -> dict[str, str]:
    """A fingerprint of each thing that the recipe or its space names, by file or key.

    skerry's own code has none: a search goes on after an update.
    """
    files = {
        name: path
        for name, path in loaded.materials.items()
        if path.suffix not in {*_ROWS, ".toml"}
    }
    folder = loaded.file.folder
    for domain in space.values():
        for value in domain.ends():
            if isinstance(value, str) and (folder / value).is_file():
                files[value] = folder / value
    rows = {
        "data.evaluation": loaded.evaluation,
        "data.validation": loaded.validation,
        "data.train": loaded.train,
        "data.calibration": loaded.calibration,
    }
    found = file_fingerprints(files)
    found["source.model"] = module_fingerprint(loaded.model)
    found |= {key: dataset_fingerprint(data) for key, data in rows.items() if data is not None}
    found |= {text: dataset_fingerprint(rows) for text, rows in loaded.unlabelled.items()}
    return found
