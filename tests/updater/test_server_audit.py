import msgspec
import pytest

from skerry.devices.errors import TrustError
from skerry.updater.server.audit import chained, verify_chain
from skerry.updater.server.records import AuditEntry


@pytest.fixture
def log() -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for n in range(5):
        last = entries[-1] if entries else None
        entries.append(chained(last, "ops", "claim.create", f"dev-{n}", "", 1.8e9 + n))
    return entries


@pytest.mark.parametrize("field", ["at", "actor", "action", "subject", "details", "previous"])
def test_a_changed_entry_is_seen(log: list[AuditEntry], field: str) -> None:
    log[2] = msgspec.structs.replace(log[2], **{field: 1.0 if field == "at" else "other"})
    with pytest.raises(TrustError, match="audit entry 3"):
        verify_chain(log)


def test_a_rewritten_entry_breaks_the_next(log: list[AuditEntry]) -> None:
    log[2] = chained(log[1], "ops", "nothing", "", "", 1.8e9)
    with pytest.raises(TrustError, match="audit entry 4"):
        verify_chain(log)


def test_a_removed_entry_is_seen(log: list[AuditEntry]) -> None:
    del log[1]
    with pytest.raises(TrustError, match="audit entry 3"):
        verify_chain(log)
    assert verify_chain([]) == 0
