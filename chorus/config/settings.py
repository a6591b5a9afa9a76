"""Settings of a node, from CHORUS_… variables alone.

`load` takes an environment and gives frozen, validated `Settings`, or raises `ConfigError`: one line that names the
variable, what is wrong with it and an example, and never shows a secret. The documentation
is made from the fields (`show.py`).

An empty variable counts as unset. A secret may come from a file instead: `CHORUS_X_FILE`, or a file named like the
variable in `CHORUS_SECRETS_DIR` (the lowest in rank).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chorus.config import values
from chorus.config.fields import PREFIX, example, is_secret, kind, variable
from chorus.config.paths import path_in
from chorus.config.secret_files import ConfigError, from_directory, from_file
from chorus.tasks.leases import LEASE_S

SECRETS_DIR = "CHORUS_SECRETS_DIR"
CLIENT_VARIABLES = ("CHORUS_API", "CHORUS_BUILD_COMMIT", "CHORUS_BUILD_DATE")
"""Variables that the `chorus` command and the version line read, beside the settings."""
MAX_SHOWN = 60
"""Characters of a wrong value that an error repeats."""

Port = Annotated[int, Field(ge=0, le=65535)]
Address = Annotated[str, AfterValidator(values.ip_address)]
Name = Annotated[str, AfterValidator(values.name)]
Words = Annotated[tuple[Name, ...], BeforeValidator(values.split)]


class Settings(BaseSettings):
    """One node's settings. Field `x` is the variable `CHORUS_X`; units are in the names."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)

    # The node as others see it
    agent_id: Name | None = Field(None, description="Name of the agent; by default made from the peer id.")
    license_id: str | None = Field(None, max_length=256, description="Licence; accepted and not used yet.")
    data_dir: Path = Field(description="Directory of the identity, the store and the blobs; one process per directory.")
    agent_role: Name | None = Field(None, description="Role announced to the mesh, for example `developer`.")
    agent_expertise: Words = Field((), description="Fields of expertise.", examples=["python,networking"])
    agent_reports_to: Name | None = Field(None, description="Agent id of the supervisor.")
    agent_specialization: Name = Field("general", description="The agent's best subject.")
    agent_capabilities: Words = Field((), description="Further capabilities that tasks may require.", examples=["gpu"])
    agent_max_tasks: int = Field(3, ge=1, le=1000, description="Tasks run at the same time.")

    # The mesh
    p2p_bind: Address = Field("127.0.0.1", description="Address that peers connect to.", examples=["0.0.0.0"])
    p2p_port: Port = Field(
        9000, description="Port that peers connect to; 0 takes a free one, the last one again where it can."
    )
    announce: Annotated[tuple[str, ...], BeforeValidator(values.split), AfterValidator(values.multiaddrs)] = Field(
        (),
        description="Addresses told to peers instead of the listening one (behind NAT or in a container).",
        examples=["/dns4/node1.example.org/tcp/9000"],
    )
    bootstrap_peers: Annotated[
        tuple[str, ...], BeforeValidator(values.split), AfterValidator(values.peer_multiaddrs)
    ] = Field(
        (),
        description="Peers to dial at start, each with its peer id.",
        examples=["/ip4/192.0.2.7/tcp/9000/p2p/12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"],
    )
    join: SecretStr | None = Field(None, description="Join token of a running node (`chorus token` prints it).")
    cluster_secret: SecretStr | None = Field(
        None, description="Secret of the cluster, 128 bits or more; made at the founding when unset."
    )
    found: bool = Field(False, description="Found a new cluster, even where bootstrap peers are configured.")
    open: bool = Field(False, description="Open mode: no admission, no tasks; for interoperability tests alone.")
    gossip_direct_peers: Annotated[
        tuple[str, ...], BeforeValidator(values.split), AfterValidator(values.peer_multiaddrs)
    ] = Field(
        (),
        description="Peers kept connected that get every pub/sub message whatever their score, each with its peer id. "
        "They must name this node too: such peers are in neither side's mesh, and one that does not name this node "
        "passes on to it only what it says itself and what gossip asks for.",
        examples=["/ip4/192.0.2.7/tcp/9000/p2p/12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"],
    )
    gossip_shared_networks: Annotated[
        tuple[str, ...], BeforeValidator(values.split), AfterValidator(values.networks)
    ] = Field(
        (),
        description="Public networks that many members share (NAT): how many they are costs none of them its pub/sub "
        f"score. At widest /{values.MIN_SHARED_PREFIX[4]} for IPv4 and /{values.MIN_SHARED_PREFIX[6]} for IPv6; "
        "private networks are never counted.",
        examples=["192.0.2.7,2001:db8::/48"],
    )
    mdns_enabled: bool = Field(True, description="Find members on the local network by mDNS.")
    join_stagger_ms: int = Field(0, ge=0, le=600_000, description="Largest random delay before joining.")
    max_connections: int = Field(192, ge=4, le=10_000, description="Connections to peers, both directions together.")

    # Memory
    dht_enabled: bool = Field(
        True, description="Take part in the distributed hash table; without it records stay on this machine."
    )
    dht_mode: Literal["auto", "server", "client"] = Field(
        "auto",
        description="A server keeps and answers for others, a client only asks; `auto` serves once others can reach "
        "this node.",
    )
    dht_prefix: Annotated[str, AfterValidator(values.protocol_prefix)] = Field(
        "/chorus", description="Prefix of the table's protocol, `/kad/1.0.0` behind it.", examples=["/chorus"]
    )
    dht_replication: int = Field(
        3, ge=3, le=5, description="Machines that must hold a record or blob until it counts as safe."
    )
    dht_test_namespaces: Annotated[
        tuple[str, ...], BeforeValidator(values.split), AfterValidator(values.test_namespaces)
    ] = Field(
        (),
        description="Namespaces in open mode whose values are not validated; for interoperability tests alone.",
        examples=["bench,test"],
    )
    dht_store_mb: int = Field(1024, ge=1, le=1_048_576, description="Records of the table kept on this node in all.")
    dht_author_mb: int = Field(
        64, ge=1, le=1_048_576, description="Records kept of one author, and of one peer that stores them here."
    )
    dht_cache_size: int = Field(
        100, ge=0, le=65_536, description="MiB of memory for decisions that were read lately; 0 keeps none."
    )

    roles: Annotated[tuple[str, ...], BeforeValidator(values.split), AfterValidator(values.own_roles)] = Field(
        (),
        description="Roles beside the built-in ones, or what those read; the founder's setting counts.",
        examples=["auditor:reads=developer+reviewer"],
    )
    keyring_passphrase: SecretStr | None = Field(
        None,
        min_length=values.MIN_PASSPHRASE,
        description="Passphrase that this node's keyring (`keys.age`) is encrypted to as well; 8 characters at least.",
    )

    # HTTP
    api_bind: Address = Field("127.0.0.1", description="Address of the HTTP API.", examples=["0.0.0.0"])
    api_port: Port = Field(
        8080, description="Port of the HTTP API; 0 takes a free one, the last one again where it can."
    )
    api_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Bearer token of the HTTP API; made in `api-token` of the data directory when unset.",
    )
    api_hosts: Annotated[tuple[str, ...], BeforeValidator(values.split), AfterValidator(values.host_names)] = Field(
        (),
        description="Further host names that HTTP requests may use (IP addresses and localhost always may).",
        examples=["node1.example.org,node1"],
    )
    health_bind: Address = Field("127.0.0.1", description="Address of the health port.", examples=["0.0.0.0"])
    health_port: Port = Field(
        8081, description="Port of /healthz, /ready and /health; 0 takes a free one, the last one again where it can."
    )

    # Tasks
    task_cpu: float = Field(1.0, ge=0.01, le=1024, description="Cores of a task that names none.")
    task_cpu_max: float = Field(8.0, ge=0.01, le=1024, description="Most cores that a task may ask for.")
    task_memory_mb: int = Field(1024, ge=16, le=16_777_216, description="Memory of a task that names none.")
    task_memory_mb_max: int = Field(16_384, ge=16, le=16_777_216, description="Most memory that a task may ask for.")
    task_pids: int = Field(256, ge=1, le=1_000_000, description="Processes and threads of a task that names none.")
    task_pids_max: int = Field(4096, ge=1, le=1_000_000, description="Most processes that a task may ask for.")
    task_disk_mb: int = Field(1024, ge=1, le=16_777_216, description="Disk of a task that names none.")
    task_disk_mb_max: int = Field(16_384, ge=1, le=16_777_216, description="Most disk that a task may ask for.")
    task_timeout_s: float = Field(600.0, ge=1, le=2_592_000, description="Time limit of a task that names none.")
    task_timeout_s_max: float = Field(86_400.0, ge=1, le=2_592_000, description="Longest time a task may ask for.")
    task_output_mb: int = Field(16, ge=1, le=4096, description="Kept of each of stdout and stderr, by default.")
    task_output_mb_max: int = Field(256, ge=1, le=4096, description="Most output that a task may ask for.")
    task_tmp_mb: int | None = Field(
        None,
        ge=8,
        le=16_777_216,
        description="Size of /tmp in a sandbox, at most the task's memory, of which it is part; by default 256, and at "
        "most a quarter of it.",
        examples=["1024"],
    )
    max_attempts: int = Field(3, ge=1, le=100, description="Agents that may try a task before it fails.")
    lease_s: float = Field(LEASE_S, ge=3, le=3600, description="Lease of an agent on a task, renewed at a third of it.")
    idempotency_days: float = Field(7.0, gt=0, le=3650, description="How long an idempotency key is remembered.")
    retention_days: float = Field(
        30.0, gt=0, le=36_500, description="How long finished tasks and their output are kept."
    )
    max_blob_mb: int = Field(1024, ge=1, le=1_048_576, description="Largest upload.")
    blob_store_mb: int = Field(20_480, ge=1, le=1_073_741_824, description="Blobs kept on this node in all.")
    blob_peer_mb: int = Field(
        5120, ge=1, le=1_073_741_824, description="Blobs of one peer that are kept here for it; part of the above."
    )

    # Sandbox
    sandbox: Literal["auto", "docker", "bubblewrap"] = Field(
        "auto", description="The sandbox of tasks; `auto` takes Docker where an engine answers and has the image."
    )
    docker_host: Annotated[str, AfterValidator(values.docker_host)] | None = Field(
        None,
        description="Container engine; by default `DOCKER_HOST`, else the usual socket.",
        examples=["unix:///run/user/1000/docker.sock"],
    )
    image_map: Annotated[dict[str, str], BeforeValidator(values.image_map)] = Field(
        {}, description="Image per language, over the built-in ones.", examples=["python=registry.lan/python-dev:3"]
    )
    warm_pool: Annotated[dict[str, int], BeforeValidator(values.warm_pool)] = Field(
        {},
        description="Containers kept started per image, or one number for every image (`*`).",
        examples=["chorus-python-dev=2,chorus-base-dev=1"],
    )

    # The process
    log_level: Literal["debug", "info", "warn", "error", "critical"] = Field("info", description="Least level logged.")
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or one JSON object a line.")
    shutdown_s: float = Field(30.0, ge=1, le=3600, description="Budget of a graceful stop.")

    @model_validator(mode="after")
    def _defaults_within_maxima(self) -> Settings:
        for name in type(self).model_fields:
            if name.endswith("_max") and getattr(self, name.removesuffix("_max")) > getattr(self, name):
                raise ValueError(
                    f"{variable(name.removesuffix('_max'))}: {getattr(self, name.removesuffix('_max'))} is over "
                    f"{variable(name)}, {getattr(self, name)}; raise the maximum or lower the default"
                )
        if self.open and (self.join or self.cluster_secret):
            raise ValueError(
                "CHORUS_OPEN: open mode proves no membership, so CHORUS_JOIN and CHORUS_CLUSTER_SECRET cannot be "
                "used with it; unset one of the two, for example CHORUS_OPEN=false"
            )
        if self.dht_test_namespaces and not self.open:
            raise ValueError(
                "CHORUS_DHT_TEST_NAMESPACES: a member takes no unvalidated records; unset it, or use open mode, "
                "CHORUS_OPEN=true"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The caller's environment alone: never os.environ by itself, never a .env file.
        given = init_settings()
        environ = given.pop("environ", None)
        if environ is None:
            return (init_settings,)
        return (EnvironmentSource(settings_cls, environ),)


class ShortSecret(ConfigError):
    """A secret with fewer characters than it needs; the text names the variable that gave it."""

    code = "short_secret"
    exit_code = 78


class EnvironmentSource(PydanticBaseSettingsSource):
    """The values in a given environment, its `_FILE` variables and its secrets directory, as text."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = variable(field_name)
        value: str | None = self._environ.get(name, "").strip() or None
        if is_secret(field):
            path = self._environ.get(name + "_FILE", "").strip()
            directory = self._environ.get(SECRETS_DIR, "").strip()
            if path and value:
                raise ConfigError(f"{name} and {name}_FILE are both set; keep one of them")
            if path:
                value = from_file(f"{name}_FILE", path_in(f"{name}_FILE", path, self._environ))
            elif directory and not value and not self._without_credentials(directory):
                value = from_directory(SECRETS_DIR, path_in(SECRETS_DIR, directory, self._environ), name)
        if value and field.annotation is Path:
            return path_in(name, value, self._environ), field_name, False
        return value, field_name, False

    def _without_credentials(self, directory: str) -> bool:
        """True if it is where systemd would have put credentials, and there were none: the folder is missing then, or
        nobody's but root's."""
        there = self._environ.get("CREDENTIALS_DIRECTORY", "").strip()
        return directory == there and not os.access(directory, os.R_OK | os.X_OK)

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        found.setdefault("data_dir", values.default_data_dir(self._environ))
        if "docker_host" not in found and self._environ.get("DOCKER_HOST"):
            found["docker_host"] = self._environ["DOCKER_HOST"]
        return found


def load(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. Raises `ConfigError`, one line for the first variable that is wrong."""
    try:
        return Settings(environ=environ)  # type: ignore[call-arg]
    except ValidationError as error:
        errors = error.errors(include_url=False)
        short = errors[0]["type"] == "too_short" and is_secret(Settings.model_fields[str(errors[0]["loc"][0])])
        raise (ShortSecret if short else ConfigError)(_explain(errors, environ)) from None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A line for each CHORUS_ variable that means nothing here, with the known one it resembles. Not fatal: another
    version, or the deployment itself, may know it."""
    known = known_variables()
    lines = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            lines.append(f"{name} is no variable of CHORUS" + (f"; did you mean {near[0]}?" if near else ""))
    return lines


def known_variables() -> set[str]:
    """Every variable that `load` reads, the `_FILE` ones included."""
    names = {SECRETS_DIR, *CLIENT_VARIABLES}
    for name, field in Settings.model_fields.items():
        names.add(variable(name))
        if is_secret(field):
            names.add(variable(name) + "_FILE")
    return names


def _explain(errors: list[ErrorDetails], environ: Mapping[str, str]) -> str:
    first = errors[0]
    location = [str(part) for part in first["loc"]]
    if not location:
        # From the model's own validator, which names its variables.
        return first["msg"].removeprefix("Value error, ")
    field = Settings.model_fields[location[0]]
    name = variable(location[0])
    if is_secret(field):
        problem = "its value is not acceptable"
        if first["type"] == "too_short":
            problem = f"its value is too short, {first['ctx']['min_length']} characters at least"
        if environ.get(f"{name}_FILE", "").strip():
            return f"{name}_FILE: in its file, {problem}"
    elif first["type"] == "value_error":
        problem = first["msg"].removeprefix("Value error, ")
    else:
        problem = f"{_quoted(environ, name)} is not {kind(field)}"
    line = f"{name}: {problem}; for example {name}={example(location[0], field)}"
    others = sorted({variable(str(error["loc"][0])) for error in errors[1:] if error["loc"]} - {name})
    return line + (f" (wrong as well: {', '.join(others)})" if others else "")


def _quoted(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "").strip()
    return repr(value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "…")
