"""The power fails at every write of a device's trust: it is never lost, and never goes back."""

import random
import shutil
from pathlib import Path

import pytest
from tuf.api.metadata import Root

from fakes.disk import After, CuttableDisk, PowerCut
from fakes.operator import Stage, release
from skerry.devices.errors import SkerryError
from skerry.devices.ids import DeviceId
from skerry.updater.repository.signing import sign
from skerry.updater.trust import Refusal, Rule, rules

DEV = DeviceId("dev-1")


class Play:
    """A device from enrolment over two releases and a new root, with a disk that may stop."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder)
        self.home = folder / "devices"
        self.stage.sign(release(1))
        self.stage.publish()
        self.stage.director.assign(DEV, release(1))
        self.stage.director.read(DEV, "timestamp.json")
        self.first = self._state()
        self.stage.sign(release(2))
        root = rules.pinned(self.stage.image_store.files["1.root.json"]).root
        self._next_root(root)
        self.stage.publish()
        self.stage.director.assign(DEV, release(2))
        self.second = self._state()

    def _next_root(self, root: Root) -> None:
        root.version = 2
        keys = self.stage.operator.signers(root.roles["root"].keyids, root.keys)
        self.stage.operator.image.write({"2.root.json": sign(root, keys)})

    def _state(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        return dict(self.stage.image_store.files), dict(self.stage.director_store.files)

    def serve(self, state: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
        self.stage.image_store.files = dict(state[0])
        self.stage.director_store.files = dict(state[1])

    def run(self, disk: CuttableDisk | None) -> list[str]:
        """Play the whole life; what was reached before the power failed."""
        reached: list[str] = []
        try:
            for number, state in ((1, self.first), (2, self.second)):
                self.serve(state)
                found = self.stage.device(disk=disk).assignment()
                assert found is not None and found.release.counter == number
                reached.append(f"believed {number}")
                self.stage.device(disk=disk).committed(found.release)
                reached.append(f"committed {number}")
        except PowerCut:
            pass
        return reached

    def clean(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()


def _goes_back(play: Play) -> bool:
    """Whether the device believes the first state again."""
    play.serve(play.first)
    try:
        play.stage.device().assignment()
    except Refusal as error:
        assert error.rule in {Rule.ROLLBACK, Rule.COUNTER, Rule.LENGTH_OR_HASH}
        return False
    return True


@pytest.mark.parametrize("after", ["lost", "kept", "torn"])
def test_a_cut_at_every_operation(tmp_path: Path, after: After) -> None:
    play, chance = Play(tmp_path), random.Random(3)
    play.clean()
    disk = CuttableDisk(play.home)
    assert play.run(disk)[-1] == "committed 2"
    operations = disk.count
    disk.close()
    assert operations > 40
    for at in range(operations):
        play.clean()
        disk = CuttableDisk(play.home, cut_at=at)
        reached = play.run(disk)
        assert disk.off
        disk.crash(after, chance)
        if "believed 2" in reached:
            assert not _goes_back(play), (at, reached)
        play.serve(play.second)
        found = play.stage.device().assignment()
        assert found is not None and found.release.counter == 2, at
        play.stage.device().committed(found.release)
        assert not _goes_back(play)


def test_a_damaged_root_is_said_and_never_replaced_in_silence(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.run(None)
    path = play.home / "dev-1" / "image" / "root.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SkerryError) as caught:
        play.stage.device().assignment()
    assert caught.value.exit_code == 4
