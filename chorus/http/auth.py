"""Access to the HTTP ports: the bearer token, and the Host header.

Every path wants the token but `/openapi.json`, which holds nothing of this node. The Host header must be an IP address,
`localhost` or a configured name: a page in a browser whose own name was made to resolve to this machine (DNS rebinding)
carries its own name there.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Collection
from pathlib import Path

from chorus.errors import LocalError
from chorus.files import create_once, read_plain
from chorus.http.problem import HttpError

TOKEN_FILE = "api-token"
TOKEN_BYTES = 32
MAX_TOKEN_FILE = 4096
"""Bytes read of the file: more than any token that fits a header."""

_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+) *")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


class TokenFileError(LocalError):
    """The token's file cannot be read, written or trusted; the text names it."""

    code = "token_file"


def load_or_make_token(data_dir: Path) -> str:
    """The token in `api-token` of the data directory, made (0600) at the first start. Raises `TokenFileError`."""
    path = data_dir / TOKEN_FILE
    try:
        if (token := _existing_token(path)) is not None:
            return token
        token = secrets.token_urlsafe(TOKEN_BYTES)
        create_once(path, f"{token}\n".encode())
    except OSError as error:
        raise TokenFileError(f"cannot use the API token in {path}: {error.strerror}") from None
    return token


def _existing_token(path: Path) -> str | None:
    try:
        content, mode = read_plain(path, MAX_TOKEN_FILE)
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise TokenFileError(f"others may use the API token in {path} (mode {mode:04o}); chmod 600 {path}")
    token = content.decode(errors="replace").strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenFileError(f"{path} holds no usable API token; remove it and a new one is made at the next start")
    return token


def check_token(header: bytes | None, token: bytes) -> None:
    """Raises a 401 unless `header` (Authorization) is `Bearer <token>`; takes the same time for every wrong token."""
    given = _BEARER.fullmatch(header) if header is not None else None
    if given is not None and hmac.compare_digest(given[1], token):
        return
    challenge = 'Bearer realm="chorus"' + ("" if header is None else ', error="invalid_token"')
    detail = (
        "the API wants `Authorization: Bearer <token>`; the token is in api-token of the node's data directory"
        if header is None
        else "the bearer token is not this node's"
    )
    raise HttpError(401, "unauthorized", detail, {"WWW-Authenticate": challenge})


def check_host(values: Collection[bytes], names: Collection[str]) -> None:
    """Raises a 400 for a Host header that is missing, doubled or malformed, a 421 for a name that is not ours."""
    if len(values) != 1:
        raise HttpError(400, "bad_host", "exactly one Host header is needed")
    text = next(iter(values)).decode("latin-1").strip()
    match = _HOST.fullmatch(text)
    if match is None:
        raise HttpError(400, "bad_host", "the Host header is malformed")
    name = match[1].rstrip(".").lower()
    if name == "localhost" or name in names:
        return
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        raise HttpError(
            421,
            "unknown_host",
            f"this node does not answer to the name {name}; use its IP address or add the name to CHORUS_API_HOSTS",
        ) from None
