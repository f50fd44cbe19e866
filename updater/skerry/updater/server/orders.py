"""`skerry fleet capture`: sign an order to keep raw inputs, and have the server hand it over."""

from __future__ import annotations

import argparse
import secrets
from urllib.parse import quote

import msgspec

from skerry.devices.clock import SystemClock
from skerry.devices.errors import InputError
from skerry.devices.output import Output
from skerry.runtime.capture_order import CaptureOrder
from skerry.updater.repository import OfflineRepository
from skerry.updater.repository.commands.asking import passphrase_of
from skerry.updater.repository.orders import sign_order
from skerry.updater.server.client import FleetClient

__all__ = ["order_capture"]


def order_capture(client: FleetClient, args: argparse.Namespace, output: Output) -> int:
    """Run `skerry fleet capture`.

    Raises:
        InputError: the numbers make no order, or too few of the signing keys are here.
        UnavailableError: the device is not connected now.
    """
    clock = SystemClock()
    words = {
        "id": f"capture-{secrets.token_hex(8)}",
        "device": args.device,
        "model": args.model,
        "until": clock.now() + args.minutes * 60,
        "calls": args.calls,
        "bytes": int(args.megabytes * 1_000_000),
        "every": args.every,
    }
    try:
        order = msgspec.convert(words, CaptureOrder)
    except msgspec.ValidationError as error:
        raise InputError(f"makes no order: {error}", where="capture") from error
    repository = OfflineRepository(args.repo, clock, passphrase=passphrase_of(args))
    envelope = sign_order(order, repository, clock)
    path = f"/v1/devices/{quote(args.device, safe='')}/capture"
    document = client.post(path, msgspec.Raw(envelope))
    output.result(
        document | {"order": msgspec.to_builtins(order)},
        f"{args.device} was handed {order.id}: at most {order.calls} calls of {order.model}, "
        f"{order.bytes} bytes, for {args.minutes:g} minutes\n"
        f"what came of it: skerry fleet events --device {args.device}",
    )
    return 0
