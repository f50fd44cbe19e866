import pytest

from skerry.devices.errors import InputError
from skerry.devices.ids import DeviceId, TenantId
from skerry.telemetry.topics import Address, Topic, device_may, subscription

ME = Address(TenantId("acme"), DeviceId("cam-1"))


@pytest.mark.parametrize(
    "kind", ["window", "event", "state", "twin/reported", "twin/desired", "ack"]
)
def test_topics_come_back_from_text(kind):
    assert Topic.parse(str(Topic(ME, kind))) == Topic(ME, kind)


def test_a_command_carries_its_id():
    topic = Topic(ME, "cmd", "3f-a")
    assert str(topic) == "skerry/v1/acme/cam-1/cmd/3f-a"
    assert Topic.parse(str(topic)) == topic


@pytest.mark.parametrize(
    "text",
    [
        "",
        "skerry/v1/acme/cam-1",
        "skerry/v1/acme/cam-1/",
        "skerry/v1/acme/cam-1/windows",
        "skerry/v1/acme/cam-1/cmd",
        "skerry/v1/acme/cam-1/cmd/",
        "skerry/v1/acme/cam-1/cmd/a/b",
        "skerry/v1/acme/+/window",
        "skerry/v1/acme/#",
        "skerry/v1//cam-1/window",
        "skerry/v2/acme/cam-1/window",
        "skerry/v1/acme/cam-1/window\n",
        "skerry/v1/ACME/cam-1/window",
        "skerry/v1/acme/" + "a" * 300 + "/window",
    ],
)
def test_other_topics_are_refused(text):
    with pytest.raises(InputError):
        Topic.parse(text)


def test_a_device_touches_its_own_topics_alone():
    own, other = "skerry/v1/acme/cam-1", "skerry/v1/acme/cam-2"
    me = str(ME)
    for tail in ("window", "event", "state", "twin/reported"):
        assert device_may(me, "publish", f"{own}/{tail}")
        assert not device_may(me, "publish", f"{other}/{tail}")
        assert not device_may(me, "subscribe", f"{own}/{tail}")
        assert not device_may(me, "receive", f"{own}/{tail}")
    for tail in ("ack", "twin/desired"):
        assert device_may(me, "subscribe", f"{own}/{tail}")
        assert not device_may(me, "publish", f"{own}/{tail}")
        assert device_may(me, "receive", f"{own}/{tail}")
        assert not device_may(me, "receive", f"{other}/{tail}")
    assert device_may(me, "subscribe", subscription("cmd", ME))
    assert device_may(me, "receive", f"{own}/cmd/1")
    for wide in ("#", "skerry/#", "skerry/v1/+/+/ack", f"{own}/#", f"{own}/+", "$SYS/#"):
        assert not device_may(me, "subscribe", wide)
    assert not device_may("nobody", "publish", "skerry/v1/nobody/x/window")
