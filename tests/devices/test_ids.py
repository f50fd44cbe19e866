import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.devices.errors import InputError
from skerry.devices.ids import DeviceId, ModelName, ReleaseId


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a/b", "a b", "a" * 64, "ä", "a\n"])
def test_what_is_not_a_name_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        DeviceId(text)


@given(st.integers(1, 2**53 - 1))
def test_a_release_round_trips_to_text(counter: int) -> None:
    release = ReleaseId(ModelName("digits"), counter)
    assert ReleaseId.parse(str(release)) == release


@pytest.mark.parametrize(
    "text", ["digits", "digits/0", "digits/01", "digits/-1", "/1", "digits/9" + "9" * 16]
)
def test_what_is_not_a_release_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        ReleaseId.parse(text)


def test_names_of_different_kinds_are_different() -> None:
    assert DeviceId("a") != ModelName("a")
