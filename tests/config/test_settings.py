from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chorus.client.api import NodeApi
from chorus.config import show
from chorus.config.fields import variable
from chorus.config.settings import ConfigError, Settings, known_variables, load, unknown_variables
from chorus.config.show import describe, effective
from chorus.config.values import roles_by_name
from chorus.security.roles import BUILT_IN, MAX_ROLES
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]
PEER = "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"


class Loading(PureTestCase):
    def test_defaults(self) -> None:
        found = load({"HOME": "/home/ann"})
        self.assertEqual(found.data_dir, Path("/home/ann/.local/share/chorus"))
        self.assertEqual((found.p2p_bind, found.p2p_port), ("127.0.0.1", 9000))
        self.assertEqual((found.api_bind, found.api_port), ("127.0.0.1", 8080))
        self.assertEqual((found.health_bind, found.health_port), ("127.0.0.1", 8081))
        self.assertEqual((found.agent_specialization, found.agent_max_tasks), ("general", 3))
        self.assertEqual((found.max_attempts, found.lease_s, found.sandbox), (3, 30.0, "auto"))
        self.assertIsNone(found.agent_id)
        self.assertIsNone(found.api_token)
        self.assertTrue(found.mdns_enabled)

    def test_xdg_data_home(self) -> None:
        self.assertEqual(load({"XDG_DATA_HOME": "/x", "HOME": "/h"}).data_dir, Path("/x/chorus"))

    def test_relative_xdg_data_home_is_ignored_as_the_specification_says(self) -> None:
        self.assertEqual(load({"XDG_DATA_HOME": "x", "HOME": "/h"}).data_dir, Path("/h/.local/share/chorus"))

    def test_a_home_directory_that_no_shell_has_expanded(self) -> None:
        root = pwd.getpwuid(0).pw_dir
        for text, path in (
            ("~", "/home/ann"),
            ("~/", "/home/ann"),
            ("~/a/~", "/home/ann/a/~"),
            ("~root/x", f"{root}/x"),
            ("./~/x", "~/x"),
            ("/a~/~", "/a~/~"),
        ):
            self.assertEqual(load({"HOME": "/home/ann", "CHORUS_DATA_DIR": text}).data_dir, Path(path), text)
            self.assertEqual(NodeApi({"HOME": "/home/ann", "CHORUS_DATA_DIR": text}).data_dir, Path(path), text)
        for text in ("~nobody-of-this-name", "~nobody-of-this-name/x"):
            for read in (load, lambda environ: NodeApi(environ).data_dir):
                with self.assertRaises(ConfigError) as caught:
                    read({"HOME": "/home/ann", "CHORUS_DATA_DIR": text})
                self.assertIn("CHORUS_DATA_DIR: '~nobody-of-this-name' is nobody's", str(caught.exception))
        # Without a usable HOME the system's own word counts, as in a shell.
        self.assertTrue(load({"HOME": "x", "CHORUS_DATA_DIR": "~/y"}).data_dir.is_absolute())

    def test_every_kind_of_value(self) -> None:
        found = load(
            {
                "CHORUS_DATA_DIR": "/data",
                "CHORUS_AGENT_EXPERTISE": "python, go,,",
                "CHORUS_BOOTSTRAP_PEERS": f"/ip4/192.0.2.7/tcp/9000/p2p/{PEER}",
                "CHORUS_ANNOUNCE": "/dns4/node1.example.org/tcp/9000",
                "CHORUS_P2P_PORT": "0",
                "CHORUS_TASK_CPU": "0.5",
                "CHORUS_FOUND": "true",
                "CHORUS_IMAGE_MAP": "python=registry.lan:5000/py@sha256:00,go=go-dev",
                "CHORUS_WARM_POOL": "chorus-python-dev=2,chorus-base-dev=1",
                "CHORUS_API_HOSTS": "Node1.example.org.,node1",
                "CHORUS_P2P_BIND": "localhost",
                "CHORUS_GOSSIP_SHARED_NETWORKS": "192.0.2.7, 2001:db8::/48",
                "CHORUS_LOG_FORMAT": "json",
                "DOCKER_HOST": "unix:///run/d.sock",
            }
        )
        self.assertEqual(found.agent_expertise, ("python", "go"))
        self.assertEqual(found.bootstrap_peers, (f"/ip4/192.0.2.7/tcp/9000/p2p/{PEER}",))
        self.assertEqual(found.announce, ("/dns4/node1.example.org/tcp/9000",))
        self.assertEqual((found.p2p_port, found.task_cpu, found.found), (0, 0.5, True))
        self.assertEqual(found.image_map, {"python": "registry.lan:5000/py@sha256:00", "go": "go-dev"})
        self.assertEqual(found.warm_pool, {"chorus-python-dev": 2, "chorus-base-dev": 1})
        self.assertEqual(found.api_hosts, ("node1.example.org", "node1"))
        self.assertEqual(found.gossip_shared_networks, ("192.0.2.7/32", "2001:db8::/48"))
        self.assertEqual((found.p2p_bind, found.log_format), ("127.0.0.1", "json"))
        self.assertEqual(found.docker_host, "unix:///run/d.sock")

    def test_one_number_warms_every_image(self) -> None:
        self.assertEqual(load({"CHORUS_WARM_POOL": "2"}).warm_pool, {"*": 2})

    def test_own_docker_host_goes_before_the_common_one(self) -> None:
        found = load({"CHORUS_DOCKER_HOST": "unix:///a", "DOCKER_HOST": "unix:///b"})
        self.assertEqual(found.docker_host, "unix:///a")

    def test_an_empty_variable_is_unset(self) -> None:
        self.assertEqual(load({"CHORUS_P2P_PORT": "", "CHORUS_AGENT_ID": " "}).p2p_port, 9000)

    def test_only_the_given_environment_is_read(self) -> None:
        self.patch(__import__("os"), "environ", {"CHORUS_P2P_PORT": "1234"})
        self.assertEqual(load({}).p2p_port, 9000)

    def test_settings_are_frozen(self) -> None:
        found = load({})
        with self.assertRaises(ValidationError):
            found.p2p_port = 1  # type: ignore[misc]


class WrongValues(PureTestCase):
    def refusal(self, environ: dict[str, str]) -> str:
        with self.assertRaises(ConfigError) as caught:
            load(environ)
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        return text

    def test_each_is_one_line_that_names_variable_problem_and_example(self) -> None:
        table = {
            "CHORUS_P2P_PORT": ("nine", "'nine' is not a whole number from 0 to 65535", "CHORUS_P2P_PORT=9000"),
            "CHORUS_API_PORT": ("65536", "not a whole number from 0 to 65535", "CHORUS_API_PORT=8080"),
            "CHORUS_TASK_CPU": ("nan", "'nan' is not a number", "CHORUS_TASK_CPU=1"),
            "CHORUS_RETENTION_DAYS": ("0", "a number over 0 and at most 36500", "CHORUS_RETENTION_DAYS=30"),
            "CHORUS_MDNS_ENABLED": ("maybe", "not true or false", "CHORUS_MDNS_ENABLED=true"),
            "CHORUS_SANDBOX": ("chroot", "one of auto, docker, bubblewrap", "CHORUS_SANDBOX=auto"),
            "CHORUS_P2P_BIND": ("example.org", "not an IP address", "CHORUS_P2P_BIND=0.0.0.0"),
            "CHORUS_AGENT_ID": ("a b", "is not a name", "CHORUS_AGENT_ID=node1"),
            "CHORUS_BOOTSTRAP_PEERS": ("/ip4/192.0.2.7/tcp/9000", "has no peer id", "/p2p/12D3Koo"),
            "CHORUS_ANNOUNCE": ("192.0.2.7:9000", "not a multiaddr", "CHORUS_ANNOUNCE=/dns4"),
            "CHORUS_IMAGE_MAP": ("python", "has no `=`", "CHORUS_IMAGE_MAP=python="),
            "CHORUS_WARM_POOL": ("a=1000", "from 0 to 100", "CHORUS_WARM_POOL="),
            "CHORUS_DOCKER_HOST": ("engine", "not an engine's address", "CHORUS_DOCKER_HOST=unix://"),
            "CHORUS_API_HOSTS": ("a:80", "not a host name", "CHORUS_API_HOSTS=node1"),
            "CHORUS_GOSSIP_SHARED_NETWORKS": ("192.0.2.7/24", "has host bits set", "2001:db8::/48"),
            "CHORUS_ROLES": ("auditor=developer", "is no role", "auditor:reads=developer+reviewer"),
            "CHORUS_KEYRING_PASSPHRASE": ("short", "too short", "CHORUS_KEYRING_PASSPHRASE="),
            "CHORUS_LOG_LEVEL": ("loud", "one of debug", "CHORUS_LOG_LEVEL=info"),
        }
        for name, (value, problem, example) in table.items():
            with self.subTest(name):
                text = self.refusal({name: value})
                self.assertTrue(text.startswith(name + ": "), text)
                self.assertIn(problem, text)
                self.assertIn(example, text)

    def test_networks_that_nobody_can_share(self) -> None:
        private = ("127.0.0.1", "10.1.0.0/16", "100.64.0.0/16", "192.168.1.0/24", "224.0.0.1", "0.0.0.0")
        private += ("::1", "fe80::1", "fe80::1%eth0", "2a00:1450::1%eth0", "fc00::/48", "::ffff:8.8.8.8", "ff0e::1")
        wide = ("0.0.0.0/0", "::/0", "10.0.0.0/8", "8.0.0.0/15", "2a00::/31")
        for texts, problem in ((private, "is not public"), (wide, "is wider than a shared network can be")):
            for text in texts:
                with self.subTest(text):
                    self.assertIn(problem, self.refusal({"CHORUS_GOSSIP_SHARED_NETWORKS": f"192.0.2.7,{text}"}))

    def test_networks_at_their_widest(self) -> None:
        found = load({"CHORUS_GOSSIP_SHARED_NETWORKS": "8.8.0.0/16,2a00:1450::/32,8.8.0.0/16,203.0.113.5"})
        self.assertEqual(found.gossip_shared_networks, ("8.8.0.0/16", "2a00:1450::/32", "203.0.113.5/32"))

    def test_roles_of_ones_own(self) -> None:
        found = load({"CHORUS_ROLES": "auditor:reads=reviewer+developer, guest, human:reads=developer"})
        self.assertEqual(found.roles, ("auditor:reads=reviewer+developer", "guest", "human:reads=developer"))
        by_name = roles_by_name(found.roles)
        self.assertEqual((by_name["auditor"], by_name["guest"]), (("developer", "reviewer"), ()))
        self.assertEqual((by_name["human"], by_name["admin"]), (("developer",), BUILT_IN["admin"]))
        many = ",".join(f"role{number}" for number in range(MAX_ROLES))
        for text in ("a b", "any", "a:reads=a", "a:writes=developer", "a:reads=b", "a" * 65, ":reads=developer", many):
            with self.subTest(text):
                self.assertTrue(self.refusal({"CHORUS_ROLES": text}).startswith("CHORUS_ROLES: "), text)

    def test_a_default_over_its_maximum(self) -> None:
        text = self.refusal({"CHORUS_TASK_CPU": "9"})
        self.assertTrue(text.startswith("CHORUS_TASK_CPU: 9.0 is over CHORUS_TASK_CPU_MAX, 8.0"), text)

    def test_open_mode_with_a_secret(self) -> None:
        self.assertIn("CHORUS_OPEN", self.refusal({"CHORUS_OPEN": "1", "CHORUS_CLUSTER_SECRET": "s" * 40}))

    def test_further_wrong_variables_are_named(self) -> None:
        text = self.refusal({"CHORUS_P2P_PORT": "x", "CHORUS_API_PORT": "y"})
        self.assertTrue(text.endswith("(wrong as well: CHORUS_API_PORT)"), text)

    def test_a_long_value_is_cut_and_control_characters_are_escaped(self) -> None:
        text = self.refusal({"CHORUS_P2P_PORT": "\x1b[2J" + "9" * 5000})
        self.assertLess(len(text), 300)
        self.assertNotIn("\x1b", text)

    @given(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=40).filter(lambda text: "\0" not in text))
    @settings(deadline=None, max_examples=300)
    def test_any_text_is_taken_or_refused_in_one_line(self, name: str, text: str) -> None:
        try:
            load({variable(name): text, "HOME": "/h"})
        except ConfigError as error:
            self.assertNotIn("\n", str(error))
            self.assertIn(variable(name), str(error))


class Secrets(PureTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.file = self.directory / "token"
        self.file.write_text("s3cret-s3cret-s3cret\n")
        self.file.chmod(0o600)

    def refusal(self, environ: dict[str, str]) -> str:
        with self.assertRaises(ConfigError) as caught:
            load(environ)
        self.assertNotIn("s3cret", str(caught.exception))
        return str(caught.exception)

    def test_from_a_file(self) -> None:
        token = load({"CHORUS_API_TOKEN_FILE": str(self.file)}).api_token
        assert token is not None
        self.assertEqual(token.get_secret_value(), "s3cret-s3cret-s3cret")

    def test_from_below_a_home_directory_that_no_shell_has_expanded(self) -> None:
        home = str(self.directory.absolute())
        for variables in (
            {"CHORUS_API_TOKEN_FILE": "~/token"},
            {"CHORUS_SECRETS_DIR": "~/secrets"},
        ):
            (self.directory / "secrets").mkdir(exist_ok=True)
            (self.directory / "secrets/chorus_api_token").write_text("s3cret-s3cret-s3cret\n")
            token = load({"HOME": home, **variables}).api_token
            assert token is not None
            self.assertEqual(token.get_secret_value(), "s3cret-s3cret-s3cret")
        self.assertEqual(NodeApi({"HOME": home, "CHORUS_API_TOKEN_FILE": "~/token"}).token(), "s3cret-s3cret-s3cret")

    def test_every_secret_has_a_file_variant(self) -> None:
        for name in ("join", "cluster_secret", "api_token"):
            found = getattr(load({variable(name) + "_FILE": str(self.file)}), name)
            self.assertEqual(found.get_secret_value(), "s3cret-s3cret-s3cret")

    def test_both_set(self) -> None:
        text = self.refusal({"CHORUS_API_TOKEN_FILE": str(self.file), "CHORUS_API_TOKEN": "s3cret"})
        self.assertEqual(text, "CHORUS_API_TOKEN and CHORUS_API_TOKEN_FILE are both set; keep one of them")

    def test_missing(self) -> None:
        text = self.refusal({"CHORUS_API_TOKEN_FILE": str(self.directory / "none")})
        self.assertIn("CHORUS_API_TOKEN_FILE: cannot read", text)
        self.assertIn("No such file", text)

    def test_a_directory_is_no_file(self) -> None:
        self.assertIn("cannot read", self.refusal({"CHORUS_API_TOKEN_FILE": str(self.directory)}))

    def test_empty(self) -> None:
        self.file.write_text(" \n")
        self.assertIn("is empty", self.refusal({"CHORUS_API_TOKEN_FILE": str(self.file)}))

    def test_too_long(self) -> None:
        self.file.write_text("x" * (64 * 1024 + 1))
        self.assertIn("longer than", self.refusal({"CHORUS_API_TOKEN_FILE": str(self.file)}))

    def test_not_text(self) -> None:
        self.file.write_bytes(b"\xff\xfe")
        self.assertIn("not text", self.refusal({"CHORUS_API_TOKEN_FILE": str(self.file)}))

    def test_unvalidated_records_of_a_member(self) -> None:
        self.assertIn("CHORUS_DHT_TEST_NAMESPACES", self.refusal({"CHORUS_DHT_TEST_NAMESPACES": "bench"}))
        for name in ("ucxl-ct", "chorus-roles", "pk", "A b"):
            self.refusal({"CHORUS_OPEN": "1", "CHORUS_DHT_TEST_NAMESPACES": name})

    def test_open_to_others(self) -> None:
        for mode, word in ((0o640, "read"), (0o604, "read"), (0o620, "change"), (0o602, "change")):
            self.file.chmod(mode)
            text = self.refusal({"CHORUS_API_TOKEN_FILE": str(self.file)})
            self.assertIn(f"others may {word}", text)
            self.assertIn("chmod 600", text)

    def test_from_the_secrets_directory(self) -> None:
        for name in ("chorus_api_token", "CHORUS_API_TOKEN"):
            mounted = self.directory / name
            mounted.write_text("mounted-mounted-")
            # As engines mount them.
            mounted.chmod(0o444)
            token = load({"CHORUS_SECRETS_DIR": str(self.directory)}).api_token
            assert token is not None
            self.assertEqual(token.get_secret_value(), "mounted-mounted-")
            mounted.unlink()

    def test_the_secrets_directory_is_asked_last(self) -> None:
        (self.directory / "chorus_api_token").write_text("mounted-mounted-")
        token = load({"CHORUS_SECRETS_DIR": str(self.directory), "CHORUS_API_TOKEN": "own-own-own-own-"}).api_token
        assert token is not None
        self.assertEqual(token.get_secret_value(), "own-own-own-own-")

    def test_a_secret_that_others_may_change_is_refused_there_too(self) -> None:
        mounted = self.directory / "chorus_api_token"
        mounted.write_text("s3cret")
        mounted.chmod(0o666)
        self.assertIn("others may change", self.refusal({"CHORUS_SECRETS_DIR": str(self.directory)}))

    def test_no_secrets_directory(self) -> None:
        self.assertIn("CHORUS_SECRETS_DIR", self.refusal({"CHORUS_SECRETS_DIR": str(self.file)}))

    def test_a_service_without_credentials_has_no_folder_of_them(self) -> None:
        """systemd makes none then, and the unit names it all the same."""
        nowhere = str(self.directory / "credentials")
        self.assertIsNone(load({"CHORUS_SECRETS_DIR": nowhere, "CREDENTIALS_DIRECTORY": nowhere}).join)
        self.assertIn("not a directory", self.refusal({"CHORUS_SECRETS_DIR": nowhere}))
        (self.directory / "credentials").mkdir()
        self.patch(os, "access", lambda *_: False)
        self.assertIsNone(load({"CHORUS_SECRETS_DIR": nowhere, "CREDENTIALS_DIRECTORY": nowhere}).join)
        self.assertIn("may not look into", self.refusal({"CHORUS_SECRETS_DIR": nowhere}))
        (self.directory / "credentials").rmdir()
        self.assertIn("not a directory", self.refusal({"CHORUS_SECRETS_DIR": nowhere, "CREDENTIALS_DIRECTORY": "/x"}))

    def test_are_never_shown(self) -> None:
        names = ("CHORUS_API_TOKEN", "CHORUS_CLUSTER_SECRET", "CHORUS_JOIN")
        found = load(dict.fromkeys(names, "s3cret-s3cret-s3cret"))
        text = show.render(found) + repr(found) + str(effective(found))
        self.assertNotIn("s3cret", text)
        self.assertIn("CHORUS_API_TOKEN=********", text)

    def test_a_short_token_is_refused_and_not_shown(self) -> None:
        text = self.refusal({"CHORUS_API_TOKEN": "s3cret"})
        self.assertTrue(text.startswith("CHORUS_API_TOKEN: its value is too short, 16 characters at least"), text)

    def test_a_short_secret_of_a_file_names_the_file_s_variable(self) -> None:
        path = self.directory / "passphrase"
        path.write_text("corgi")
        path.chmod(0o600)
        error = self.assertRaises(ConfigError, load, {"CHORUS_KEYRING_PASSPHRASE_FILE": str(path)})
        self.assertEqual(error.exit_code, 78)
        self.assertIn("CHORUS_KEYRING_PASSPHRASE_FILE: in its file, its value is too short, 8 char", str(error))
        self.assertNotIn("corgi", str(error))


class Unknown(PureTestCase):
    def test_is_a_warning_with_the_nearest_name(self) -> None:
        lines = unknown_variables({"CHORUS_P2P_PROT": "1", "CHORUS_P2P_PORT": "1", "CHORUS_ZZZ": "", "PATH": "x"})
        self.assertEqual(
            lines,
            [
                "CHORUS_P2P_PROT is no variable of CHORUS; did you mean CHORUS_P2P_PORT?",
                "CHORUS_ZZZ is no variable of CHORUS",
            ],
        )

    def test_is_not_fatal(self) -> None:
        self.assertEqual(load({"CHORUS_P2P_PROT": "1"}).p2p_port, 9000)

    def test_file_variants_are_known(self) -> None:
        self.assertEqual(unknown_variables(dict.fromkeys(known_variables(), "")), [])
        self.assertIn("CHORUS_JOIN_FILE", known_variables())
        self.assertNotIn("CHORUS_P2P_PORT_FILE", known_variables())


class Table(PureTestCase):
    def test_every_row_is_complete(self) -> None:
        rows = describe()
        self.assertEqual(len(rows), len(Settings.model_fields))
        for row in rows:
            self.assertTrue(row.description.endswith("."), row)
            self.assertTrue(row.example, row)

    def test_every_example_is_accepted(self) -> None:
        for row in describe():
            if not row.secret:
                load({"CHORUS_OPEN": str("TEST" in row.name), row.name: row.example})

    def test_every_default_in_the_table_is_the_default(self) -> None:
        for row in describe():
            if row.default and row.name != "CHORUS_DATA_DIR":
                self.assertEqual(load({row.name: row.default}), load({}))

    def test_the_rendered_configuration_loads_again(self) -> None:
        environ = {"CHORUS_WARM_POOL": "2", "CHORUS_AGENT_EXPERTISE": "a,b", "CHORUS_TASK_CPU": "0.25", "HOME": "/h"}
        before = load(environ)
        lines = [line.split("  #")[0].split("=", 1) for line in show.render(before).splitlines() if line[0] != "#"]
        self.assertEqual(load({name: value for name, value in lines}), before)

    def test_the_page_is_current(self) -> None:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts/gen-docs"), "--check"], capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
