"""The part of `skerry keys` in which the holders of keys act together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Root, Targets

from skerry.devices.clock import SystemClock
from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.devices.output import Output, table
from skerry.updater.repository import ceremony
from skerry.updater.repository.commands.asking import (
    confirm,
    new_passphrase,
    passphrase_of,
    read_bounded,
)
from skerry.updater.repository.keys import OnlinePublic, PublicKey
from skerry.updater.repository.locking import changing
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.releases import releases_in
from skerry.updater.repository.signers import load_key, make_key, open_signer, token_key
from skerry.updater.repository.signing import newest_root
from skerry.updater.repository.staging import Staging
from skerry.updater.trust import rules
from skerry.updater.trust.expiry import ExpiryPolicy

__all__ = ["report", "run"]

_DAY_S = 86_400.0


def run(args: argparse.Namespace, output: Output) -> int:
    """Run one of the actions `make`, `token`, `add`, …, `abandon`."""
    apart = {"make": _make, "token": _token, "sign": _sign, "status": _status}
    if args.action in apart:
        return apart[args.action](args, output)
    changes: dict[str, Callable[[argparse.Namespace, Output], int]] = {
        "add": _add,
        "revoke": _revoke,
        "threshold": _threshold,
        "online": _online,
        "policy": _policy,
        "renew": _renew,
        "merge": _merge,
        "abandon": _abandon,
    }
    with changing(args.repo, output.note):
        return changes[args.action](args, output)


def report(staging: Staging, output: Output, done: str) -> int:
    """Finish what can be finished, and say what is in place or still waits for whom."""
    finished = staging.finish()
    pending = staging.pending()
    waiting = {
        name: [
            {"role": n.role, "have": n.have, "threshold": n.threshold, "waiting": list(n.waiting)}
            for n in asked
        ]
        for name, asked in pending.items()
    }
    lines = [done] if done else []
    if finished:
        lines.append(f"in place: {', '.join(finished)}; publish with `skerry release publish`")
    for name, asked in pending.items():
        for need in asked:
            ids = ", ".join(keyid[:12] + "…" for keyid in need.waiting) or "nobody"
            state = "enough" if need.met else f"can still sign: {ids}"
            lines.append(f"staged/{name}: {need.role} {need.have} of {need.threshold}, {state}")
    output.result({"finished": finished, "waiting": waiting}, "\n".join(lines) or "nothing waits")
    return 0


def _open(args: argparse.Namespace, output: Output) -> tuple[OfflineRepository, Staging]:
    clock = SystemClock()
    asked = passphrase_of(args) if hasattr(args, "passphrase_file") else None
    repository = OfflineRepository(args.repo, clock, passphrase=asked, tell=output.note)
    return repository, Staging(repository, clock)


def _make(args: argparse.Namespace, output: Output) -> int:
    public = args.key.with_name(args.key.name + ".pub")
    signer = make_key(args.key, new_passphrase(args))
    write_atomically(public, PublicKey(signer.public_key).encode())
    keyid = signer.public_key.keyid
    output.result({"keyid": keyid, "public": str(public)}, f"made {args.key}, key {keyid[:12]}…")
    return 0


def _token(args: argparse.Namespace, output: Output) -> int:
    key, uri = token_key(args.label, args.id)
    write_atomically(args.public, PublicKey(key, uri).encode())
    output.result(
        {"keyid": key.keyid, "public": str(args.public), "uri": uri},
        f"wrote {args.public}: key {key.keyid[:12]}… at {uri}",
    )
    return 0


def _change(
    args: argparse.Namespace, output: Output, edit: Callable[[Root], None], warning: str
) -> int:
    _, staging = _open(args, output)
    change = staging.change_root_keys if args.role == "root" else staging.change_targets_keys
    return _carry_out(args, output, staging, change(edit), warning)


def _carry_out(
    args: argparse.Namespace, output: Output, staging: Staging, said: list[str], warning: str
) -> int:
    """Ask, sign what was staged with the keys that are here, and report."""
    try:
        confirm(args, output, warning, said)
        staging.sign()
    except BaseException:
        staging.abandon()
        raise
    return report(staging, output, "")


def _add(args: argparse.Namespace, output: Output) -> int:
    public = PublicKey.decode(read_bounded(args.public), where=args.public)
    warning = f"From then on this key has a vote on {args.role}."
    code = _change(args, output, ceremony.added_key(args.role, public.key), warning)
    repository, _ = _open(args, output)
    if args.key is not None:
        repository.key_here(public.key.keyid, f"file:{args.key.resolve()}")
    elif public.uri is not None:
        repository.key_here(public.key.keyid, public.uri)
    return code


def _revoke(args: argparse.Namespace, output: Output) -> int:
    repository, _ = _open(args, output)
    held = newest_root(repository.image).roles[args.role].keyids
    matches = [keyid for keyid in held if keyid.startswith(args.keyid)]
    if len(matches) != 1:
        remedy = "there are: " + ", ".join(keyid[:12] for keyid in held)
        raise InputError(f"{len(matches)} keys of {args.role} begin so", remedy=remedy)
    warning = f"What this key alone has signed of {args.role} no longer counts."
    return _change(args, output, ceremony.revoked_key(args.role, matches[0]), warning)


def _threshold(args: argparse.Namespace, output: Output) -> int:
    warning = f"From then on {args.count} holders must sign {args.role}."
    return _change(args, output, ceremony.threshold(args.role, args.count), warning)


def _online(args: argparse.Namespace, output: Output) -> int:
    online = OnlinePublic.decode(read_bounded(args.online), where=args.online)
    _, staging = _open(args, output)
    said = staging.change_online_keys(online)
    warning = "Devices then believe this server alone, and no longer the one before."
    return _carry_out(args, output, staging, said, warning)


def _policy(args: argparse.Namespace, output: Output) -> int:
    _, staging = _open(args, output)
    said = staging.change_policy(ExpiryPolicy(args.clockless == "yes", args.media_days * _DAY_S))
    warning = "Whoever holds news back from such devices is noticed later, or not at all."
    return _carry_out(args, output, staging, said, warning)


def _renew(args: argparse.Namespace, output: Output) -> int:
    _, staging = _open(args, output)
    said = staging.renew(args.within * _DAY_S)
    if not said:
        output.result({"finished": [], "waiting": {}}, "nothing expires so soon")
        return 0
    return _carry_out(args, output, staging, said, "These signatures are renewed.")


def _sign(args: argparse.Namespace, output: Output) -> int:
    signer = _signer(args)
    said = []
    for path in args.files:
        data = read_bounded(path)
        said += [f"{path.name}: {line}" for line in _described(data, signer.public_key)]
    confirm(args, output, "Your signature says that you agree.", said)
    for path in args.files:
        write_atomically(path, ceremony.signed_also(read_bounded(path), [signer]))
    keyid = signer.public_key.keyid
    names = [str(path) for path in args.files]
    output.result({"keyid": keyid, "files": names}, f"signed {', '.join(names)}; bring them back")
    return 0


def _signer(args: argparse.Namespace) -> Signer:
    asked = passphrase_of(args)
    if args.key.suffix != ".pub":
        return load_key(args.key, asked)
    public = PublicKey.decode(read_bounded(args.key), where=args.key)
    if public.uri is None:
        remedy = "give the private key file, or the .pub that `skerry keys token` wrote"
        raise InputError("names no private key", where=args.key, remedy=remedy)
    return open_signer(public.uri, public.key, Path.cwd(), asked)


def _described(data: bytes, key: Key) -> list[str]:
    """What a holder is about to sign, in words."""
    try:
        root = rules.parsed(Root, "root", data).signed
    except rules.Refusal:
        targets = rules.parsed(Targets, "targets", data).signed
        said = [f"releases, version {targets.version}, until {targets.expires:%Y-%m-%d}"]
        releases = releases_in(targets)
        return said + [f"{r.id} ({r.version}) is {r.manifest.digest.short}…" for r in releases]
    said = [f"root, version {root.version}, until {root.expires:%Y-%m-%d}"]
    for name, role in sorted(root.roles.items()):
        ids = ", ".join(
            keyid[:12] + ("… (yours)" if keyid == key.keyid else "…") for keyid in role.keyids
        )
        said.append(f"{name}: {role.threshold} of {ids}")
    return said


def _merge(args: argparse.Namespace, output: Output) -> int:
    _, staging = _open(args, output)
    names = [staging.merge(read_bounded(path)) for path in args.files]
    return report(staging, output, f"merged {', '.join(names)}")


def _status(args: argparse.Namespace, output: Output) -> int:
    repository, staging = _open(args, output)
    rows, document = [], []
    for name, store in (("image", repository.image), ("director", repository.director)):
        root = newest_root(store)
        for role, holding in sorted(root.roles.items()):
            ids = [keyid[:12] for keyid in holding.keyids]
            rows.append([name, role, f"{holding.threshold} of {len(ids)}", ", ".join(ids)])
            document.append(
                {
                    "repository": name,
                    "role": role,
                    "threshold": holding.threshold,
                    "keys": holding.keyids,
                }
            )
    waiting = {
        name: [{"role": n.role, "have": n.have, "threshold": n.threshold} for n in asked]
        for name, asked in staging.pending().items()
    }
    lines = [table(["repository", "role", "must sign", "keys"], rows)]
    for name, asked in waiting.items():
        lines += [f"staged/{name}: {n['role']} {n['have']} of {n['threshold']}" for n in asked]
    output.result({"roles": document, "waiting": waiting}, "\n".join(lines))
    return 0


def _abandon(args: argparse.Namespace, output: Output) -> int:
    _, staging = _open(args, output)
    names = staging.abandon()
    output.result({"dropped": names}, f"dropped {', '.join(names) or 'nothing'}")
    return 0
