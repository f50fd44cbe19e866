import inspect

from skerry.devices import errors
from skerry.devices.errors import ExitCode, MissingExtraError, RecipeError, SkerryError


def test_an_error_says_what_where_and_the_remedy_in_one_line() -> None:
    error = RecipeError(
        "no such key 'modle'", where="r.toml: source", remedy="did you mean 'model'?"
    )
    assert str(error) == "r.toml: source: no such key 'modle'; did you mean 'model'?"
    assert error.exit_code is ExitCode.BAD_INPUT


def test_the_drawing_of_the_tree_is_true() -> None:
    drawn = errors.__doc__ or ""
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SkerryError)
    ]
    assert len(classes) > 10
    for one in classes:
        assert one.__name__ in drawn


def test_a_missing_extra_names_what_to_install() -> None:
    error = MissingExtraError("server", missing="fastapi", needed_by="skerry fleet")
    assert "pip install 'skerry[server]'" in str(error)
    assert error.exit_code is ExitCode.UNAVAILABLE
