"""Logins and topics of the embedded broker."""

from __future__ import annotations

import logging
import secrets

from skerry.devices.errors import SkerryError
from skerry.devices.ids import DeviceId
from skerry.telemetry.topics import Action, Address, device_may
from skerry.updater.server.enrol import identify
from skerry.updater.server.fleet import Fleet

__all__ = ["COLLECTOR", "Doorman"]

COLLECTOR = "collector"
"""The user name of the server's own collector."""
_LOG = logging.getLogger(__name__)
_MQTT_AUDIENCE = "mqtt"


class Doorman:
    """Who may log in to the broker, and what for: devices, and the collector by its secret.

    Args:
        secret: the collector's password.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self.fleet: Fleet | None = None

    def authenticate(self, username: str, password: str) -> bool:
        """Whether the login is a device's of this fleet, not revoked, or the collector's."""
        if username == COLLECTOR:
            return secrets.compare_digest(password.encode(), self._secret.encode())
        if self.fleet is None:
            return False
        try:
            address = Address.parse(username)
            device = identify(self.fleet, password, _MQTT_AUDIENCE)
        except SkerryError as error:
            _LOG.info("login of %s refused: %s", username[:140], error)
            return False
        return address == Address(self.fleet.tenant, DeviceId(device.id))

    def authorize(self, username: str, action: Action, topic: str) -> bool:
        """Whether whoever logged in may do this."""
        return username == COLLECTOR or device_may(username, action, topic)
