"""The node's API as the command sees it: where it is, its token, requests, problems as one line."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from chorus.client.errors import EXIT_TASK_FAILED, EXIT_UNAUTHORIZED, EXIT_USAGE, ClientError, NoNode, Refused
from chorus.config.paths import path_in
from chorus.config.secret_files import ConfigError, from_file
from chorus.config.values import default_data_dir
from chorus.files import kind, read_plain

if TYPE_CHECKING:
    from collections.abc import Callable

PORTS = "ports.json"
TOKEN = "api-token"
CONNECT_S = 10.0
ANSWER_S = 60.0
"""The longest silence of an answer: event streams send a heartbeat every 15 s."""
HEALTH_PATH = "/healthz"
"""Named by the health port's answer to any path that it does not have."""
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_EOF_WHILE_READING"})
"""OpenSSL's names for an answer in plain text, or none."""
BLOCK = 256 * 1024
MAX_PORTS = 64 * 1024
"""Bytes read of `ports.json`."""
MAX_ERROR = 64 * 1024
START_HINT = "start one with `twistd chorus agent`, or name another with --api or CHORUS_API"


class NodeApi:
    """One node. Its address and token are looked up again for each request, since a restarted node may have others."""

    def __init__(self, environ: Mapping[str, str], api: str | None = None, token: str | None = None) -> None:
        self._environ = environ
        self._api = api
        self._token = token

    @property
    def data_dir(self) -> Path:
        configured = self._environ.get("CHORUS_DATA_DIR", "").strip()
        if not configured:
            return default_data_dir(self._environ)
        return path_in("CHORUS_DATA_DIR", configured, self._environ)

    def secret(self, name: str) -> str | None:
        """A secret setting of the node: its variable, or the file that `<name>_FILE` names. Raises `ConfigError`."""
        if named := self._environ.get(f"{name}_FILE", "").strip():
            return from_file(f"{name}_FILE", path_in(f"{name}_FILE", named, self._environ))
        return self._environ.get(name, "").strip() or None

    def address(self) -> str:
        """`http://host:port`. Raises `ClientError`."""
        given = self._api or self._environ.get("CHORUS_API", "").strip()
        if given:
            return given.rstrip("/") if "://" in given else f"http://{given.rstrip('/')}"
        path = self.data_dir / PORTS
        try:
            ports = decoded(read_plain(path, MAX_PORTS)[0])
            host, port = str(ports.get("api_host", "127.0.0.1")), int(ports["api"])
        except FileNotFoundError:
            raise NoNode(f"no node runs with the data directory {self.data_dir}; {START_HINT}") from None
        except PermissionError:
            raise ClientError(
                f"{path} belongs to another user; run this command as the node's user, or say --api"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ClientError(f"{path} is damaged; restart the node, or say --api") from None
        # A node that listens everywhere listens here.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def token(self) -> str:
        """Raises `ClientError`."""
        given = self._token or self._environ.get("CHORUS_API_TOKEN", "").strip()
        if given:
            return given
        named = self._environ.get("CHORUS_API_TOKEN_FILE", "").strip()
        path = path_in("CHORUS_API_TOKEN_FILE", named, self._environ) if named else self.data_dir / TOKEN
        try:
            if not named and path.exists() and (found := kind(path.lstat().st_mode)) is not None:
                raise ConfigError(f"the API token: {path} is {found}, where a plain file belongs")
            return from_file("CHORUS_API_TOKEN_FILE" if named else "the API token", path)
        except ConfigError as error:
            raise ClientError(f"{error}; say --token or CHORUS_API_TOKEN", EXIT_UNAUTHORIZED) from None

    def json(self, method: str, path: str, body: object = None, *, open_path: bool = False) -> Any:
        """One JSON document. Raises `ClientError`."""
        headers = {"Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with self.request(method, path, data, headers, open_path=open_path) as answer:
            try:
                return decoded(answer.read())
            except (ValueError, http.client.HTTPException, OSError) as error:
                raise NoNode(f"{self.address()} did not answer like a node of CHORUS: {error}") from None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | CountedFile | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        open_path: bool = False,
    ) -> ApiAnswer:
        """Send one request; the answer's status is under 300. `open_path` needs no token. Raises `ClientError`."""
        address = self.address()
        connection = _connect(address)
        sent = dict(headers or {})
        if not open_path:
            sent["Authorization"] = f"Bearer {self.token()}"
        try:
            _send(connection, method, path, body, sent)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            tls = address.startswith("https:")
            raise NoNode(f"no node answers at {address} ({_reason(error, tls)}); {START_HINT}") from None
        if response.status >= 300:
            try:
                raise _problem(response, address)
            finally:
                connection.close()
        return ApiAnswer(connection, response)


class ApiAnswer:
    """A response that is read while its connection is open; a context manager."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self.response = response
        self.status = response.status

    def __enter__(self) -> ApiAnswer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self) -> bytes:
        return self.response.read()

    def chunks(self) -> Iterator[bytes]:
        while data := self.response.read(BLOCK):
            yield data

    def lines(self) -> Iterator[bytes]:
        """Lines as they come, without their ends. Raises `OSError` or `HTTPException` when the connection breaks."""
        while line := self.response.readline(16 * 1024 * 1024):
            yield line.rstrip(b"\r\n")


class CountedFile:
    """A file that says how much of it was read."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._advance(len(data))
        return data


def decoded(raw: bytes) -> Any:
    """One JSON document. Raises `ValueError` for everything that is none, also for one that is nested too deeply."""
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _connect(address: str) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in {"http", "https"} or not host or parts.path not in {"", "/"}:
        raise ClientError(f"{address!r} is not the address of an API; for example http://127.0.0.1:8080")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=ANSWER_S, blocksize=BLOCK)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | IO[bytes] | CountedFile | None,
    headers: dict[str, str],
) -> None:
    connection.timeout = CONNECT_S
    connection.connect()
    sock = connection.sock
    sock.settimeout(ANSWER_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Either may mean that the node refused the body before its end: its answer is there to be read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, headers)


def _problem(response: http.client.HTTPResponse, address: str) -> ClientError:
    status = response.status
    try:
        document = decoded(response.read(MAX_ERROR))
        code, detail = str(document["code"]), str(document["detail"])
        field = str(document.get("field") or "")
    except (ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException, OSError):
        return ClientError(f"{address} answered with status {status}; is it a node of CHORUS?", EXIT_TASK_FAILED)
    if status == 404 and HEALTH_PATH in detail:
        return ClientError(f"{address} is a node's health port; its API has another (CHORUS_API_PORT, {PORTS})")
    if status == 401:
        hint = "check --token, CHORUS_API_TOKEN or the data directory (CHORUS_DATA_DIR)"
        return Refused(status, code, f"{address} does not accept the token; {hint}", EXIT_UNAUTHORIZED)
    exit_status = EXIT_USAGE if status < 500 and status != 409 else EXIT_TASK_FAILED
    return Refused(status, code, detail, exit_status, field)


def _reason(error: Exception, tls: bool) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    # A port of plain HTTP answers a TLS greeting in plain text and closes: its reset may overtake the answer.
    if (isinstance(error, ssl.SSLError) and error.reason in NOT_TLS) or (
        tls and isinstance(error, ConnectionResetError)
    ):
        return "it does not speak TLS: a node's port speaks plain HTTP, say http://"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
