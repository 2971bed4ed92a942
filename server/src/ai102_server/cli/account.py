# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``account`` and ``token``: accounts in a file, tokens of a running server, and the keys that sign them.

Passwords and tokens come from the terminal or from standard input, never from the command line, where every user of the
machine could read them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ai102_server.cli.target import Target, add_target_options, connect
from ai102_server.errors import ConfigError, ServerError

if TYPE_CHECKING:
    from ai102_server.access.accounts import Account
    from ai102_server.config.access import AccessConfig, Password

__all__ = ["add_parser"]

_LARGEST_ANSWER: Final = 1 << 20
_RSA_BITS: Final = 3072


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands ``account`` and ``token``."""
    _add_account(commands)
    _add_token(commands)


def _add_account(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    account = commands.add_parser("account", help="manage local accounts")
    actions = account.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=text)
        parser.set_defaults(run=run)
        where = parser.add_mutually_exclusive_group(required=name != "hash")
        where.add_argument("--config", type=Path, metavar="FILE", help="configuration of the server (YAML)")
        if name != "hash":
            where.add_argument("--accounts", type=Path, metavar="FILE", help="accounts (YAML)")
        if name not in {"hash", "list"}:
            parser.add_argument("name", metavar="NAME", help="name of the account")
        return parser

    action("hash", "print the Argon2id hash of a password, which is read from standard input or the terminal", _hash)
    add = action("add", "add an account, or change its password, role, tenant and attributes", _add)
    add.add_argument("--role", required=True, help="such as viewer, user, operator, admin")
    add.add_argument("--tenant", default="", help="the tenant whose models it may use besides those of nobody")
    add.add_argument("--attribute", action="append", default=[], metavar="NAME=VALUE", help="for rules of the policy")
    action("disable", "let an account log in no longer; its tokens end at once", _disable)
    action("enable", "let a disabled account log in again", _enable)
    action("remove", "remove an account; its tokens end at once", _remove)
    action("list", "print name, role, tenant and state of all accounts", _list)


def _add_token(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    token = commands.add_parser(
        "token", help="ask a running server for a token; the password is read from standard input or the terminal"
    )
    token.set_defaults(run=_token)
    # Not required: the actions below the same command have no server.
    add_target_options(token, required=False, token=False)
    token.add_argument("--name", metavar="NAME", help="name of the account")
    actions = token.add_subparsers(dest="action", required=False, metavar="ACTION")

    key = actions.add_parser("new-key", help="make a key that signs tokens from now on")
    key.add_argument("--directory", type=Path, required=True, help="access.keys.directory of the configuration")
    key.add_argument("--algorithm", choices=("EdDSA", "RS256"), default="EdDSA", help="default: %(default)s")
    key.set_defaults(run=_new_key)

    verify = actions.add_parser("verify", help="verify the token on standard input, and print whom it stands for")
    verify.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration of the server (YAML)")
    verify.set_defaults(run=_verify)

    revoke = actions.add_parser("revoke", help="end the token on standard input, or, as an admin, those of others")
    add_target_options(revoke, required=False, token=False)
    revoke.add_argument("--jti", help="id of the token to end; the one on standard input is the admin's")
    revoke.add_argument("--subject", help="end all tokens of this subject; the one on standard input is the admin's")
    revoke.set_defaults(run=_revoke)


# --------------------------------------------------------------------------------------------------------------------
# Secrets
# --------------------------------------------------------------------------------------------------------------------
def _secret(what: str, *, twice: bool = False) -> str:
    """A secret from the terminal, or the first line of standard input."""
    if sys.stdin.isatty():
        secret = getpass.getpass(f"{what}: ")
        if twice and secret != getpass.getpass(f"{what}, again: "):
            raise ServerError("the two are not the same")
    else:
        secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise ServerError(f"no {what.lower()} was given on standard input")
    return secret


def _new_password() -> str:
    from ai102_server.access.accounts import LONGEST_PASSWORD

    password = _secret("Password", twice=True)
    if len(password.encode("utf-8", "surrogateescape")) > LONGEST_PASSWORD:
        raise ServerError(f"a password may have {LONGEST_PASSWORD} bytes")
    return password


# --------------------------------------------------------------------------------------------------------------------
# Accounts
# --------------------------------------------------------------------------------------------------------------------
def _access_of(path: Path) -> AccessConfig:
    from ai102_server.config import load_config

    return load_config(path).access


def _parameters(arguments: argparse.Namespace) -> Password:
    from ai102_server.config.access import Password

    return _access_of(arguments.config).password if arguments.config is not None else Password()


def _file(arguments: argparse.Namespace) -> Path:
    if arguments.accounts is not None:
        given: Path = arguments.accounts
        return given
    path = _access_of(arguments.config).accounts
    if path is None:
        raise ServerError(f"{arguments.config} does not say access.accounts")
    return path


def _read(path: Path) -> dict[str, Account]:
    from ai102_server.access.accounts import parse_accounts
    from ai102_server.access.files import read_yaml

    return parse_accounts(read_yaml(path), str(path)) if path.exists() else {}


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, Account]]:
    """All accounts, to be changed: written back as a whole, so that a server never reads half of them."""
    import yaml

    from ai102_server.access.accounts import account_to_yaml

    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ServerError(f"{path.parent} cannot be opened: {error.strerror}") from error
    try:
        # Two who change the file at once would lose what one of them did.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        accounts = _read(path)
        yield accounts
        text = yaml.safe_dump(
            {"accounts": [account_to_yaml(account) for account in accounts.values()]}, sort_keys=False, width=1000
        )
        _replace(path, text)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            if path.exists():
                state = path.stat()
                os.chown(temporary, state.st_uid, state.st_gid)
                temporary.chmod(state.st_mode & 0o7777)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ServerError(f"{path} cannot be written: {error.strerror}") from error


def _hash(arguments: argparse.Namespace) -> int:
    from ai102_server.access.accounts import hasher

    print(hasher(_parameters(arguments)).hash(_new_password()))
    return 0


def _add(arguments: argparse.Namespace) -> int:
    from ai102_server.access.accounts import Account, account_to_yaml, hasher, parse_accounts

    attributes: dict[str, str] = {}
    for item in arguments.attribute:
        name, equals, value = item.partition("=")
        if not equals:
            raise ServerError(f"--attribute must be NAME=VALUE, not '{item}'")
        attributes[name] = value
    path = _file(arguments)
    encoded = hasher(_parameters(arguments)).hash(_new_password())
    account = Account(arguments.name, encoded, arguments.role, arguments.tenant, attributes=attributes)
    # What the server would refuse must not get into its file.
    parse_accounts({"accounts": [account_to_yaml(account)]}, "account")
    with _changing(path) as accounts:
        known = accounts.get(account.name)
        accounts[account.name] = replace(account, disabled=known.disabled) if known is not None else account
    print(f"{'changed' if known is not None else 'added'} {account.name} in {path}", file=sys.stderr)
    return 0


def _known(accounts: dict[str, Account], name: str, path: Path) -> Account:
    if name not in accounts:
        raise ServerError(f"there is no account '{name}' in {path}")
    return accounts[name]


def _switch(arguments: argparse.Namespace, *, disabled: bool) -> int:
    path = _file(arguments)
    with _changing(path) as accounts:
        accounts[arguments.name] = replace(_known(accounts, arguments.name, path), disabled=disabled)
    print(f"{'disabled' if disabled else 'enabled'} {arguments.name} in {path}", file=sys.stderr)
    return 0


def _disable(arguments: argparse.Namespace) -> int:
    return _switch(arguments, disabled=True)


def _enable(arguments: argparse.Namespace) -> int:
    return _switch(arguments, disabled=False)


def _remove(arguments: argparse.Namespace) -> int:
    path = _file(arguments)
    with _changing(path) as accounts:
        del accounts[_known(accounts, arguments.name, path).name]
    print(f"removed {arguments.name} from {path}", file=sys.stderr)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    for account in _read(_file(arguments)).values():
        state = "disabled" if account.disabled else "enabled"
        attributes = ",".join(f"{name}={value}" for name, value in sorted(account.attributes.items()))
        print("\t".join((account.name, account.role, account.tenant or "-", state, attributes or "-")))
    return 0


# --------------------------------------------------------------------------------------------------------------------
# Tokens
# --------------------------------------------------------------------------------------------------------------------
def _post(arguments: argparse.Namespace, path: str, document: dict[str, str], token: str | None) -> dict[str, Any]:
    target = Target.of(arguments)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = connect(target)
    try:
        connection.request("POST", target.prefix + path, json.dumps(document), headers)
        response = connection.getresponse()
        body = response.read(_LARGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"{target.url} cannot be asked: {error or type(error).__name__}") from error
    finally:
        connection.close()
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if response.status != HTTPStatus.OK or not isinstance(answer, dict):
        given = answer if isinstance(answer, dict) else {}
        reason = given.get("error_description") or given.get("error") or "no JSON"
        raise ServerError(f"{target.url} answers {response.status}: {str(reason)[:300]}")
    return answer


def _token(arguments: argparse.Namespace) -> int:
    if not arguments.name:
        raise ServerError("--name is missing: whose token?")
    document = {"grant_type": "password", "username": arguments.name, "password": _secret("Password")}
    print(_post(arguments, "/auth/token", document, None)["access_token"])
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    token = _secret("Token")
    fields = {"jti": arguments.jti, "subject": arguments.subject}
    document = {name: value for name, value in fields.items() if value} or {"token": token}
    _post(arguments, "/auth/revoke", document, token)
    return 0


def _new_key(arguments: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    from ai102_server.access.keys import thumbprint

    key = Ed25519PrivateKey.generate() if arguments.algorithm == "EdDSA" else generate_private_key(65537, _RSA_BITS)
    kid = thumbprint(key.public_key())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    # The newest by name signs.
    path = arguments.directory / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{kid[:8]}.pem"
    temporary = path.with_suffix(".new")
    try:
        arguments.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A running server looks at names that end in .pem: it must never see half a key.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(pem)
        temporary.rename(path)
    except OSError as error:
        raise ServerError(f"{path} cannot be written: {error.strerror}") from error
    print(f"{path} ({arguments.algorithm}, kid {kid})", file=sys.stderr)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from ai102_server.access.gate import Access
    from ai102_server.access.tokens import RefusedError

    config = _access_of(arguments.config)
    if not config.enabled:
        raise ConfigError(str(arguments.config), ["access.enabled is false: no token is asked for"])
    if config.state is not None and not config.state.exists():
        # It would be made here, and belong to whoever runs this and not to the server.
        raise ServerError(f"there is no {config.state}: the server has never run with this configuration")
    access = Access.load(config)
    try:
        identity = access.verify(_secret("Token"))
    except RefusedError as error:
        raise ServerError(f"the token is not accepted: {error}") from None
    finally:
        access.close()
    document = {
        "subject": identity.subject,
        "role": identity.role,
        "tenant": identity.tenant,
        "jti": identity.jti,
        "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(identity.expires)),
    }
    print(json.dumps(document))
    return 0
