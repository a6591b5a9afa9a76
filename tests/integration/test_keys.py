"""Roles and keys of three real nodes, and of a data directory by the command."""

from __future__ import annotations

from typing import Any

from chorus.identity import PeerId
from chorus.security import age
from chorus.security.role_changes import open_secrets
from chorus.security.roles import read_roles
from chorus.services.keys.files import KeyFiles
from tests.integration.agents import until
from tests.integration.nodes import Node, NodeCase, threaded


def keys(node: Node) -> Any:
    return node.get("/v1/keys")


def roles_of(node: Node, peer: str) -> list[str]:
    return next((each["roles"] for each in keys(node)["members"] if each["peer_id"] == peer), [])


def identities(node: Node) -> list[str]:
    """What the files of a node open, the newest epoch first."""
    files = KeyFiles(node.data)
    raw = files.roles()
    assert raw is not None
    file = read_roles(raw, bytes.fromhex(node.status()["cluster_id"]))
    secrets = open_secrets(file, PeerId.parse(node.peer_id), files.load()[1].own)
    return [key for found in secrets.values() for key in found]


class KeysOfNodes(NodeCase):
    @threaded
    def test_grant_rotate_and_remove(self) -> None:
        founder = self.node("founder").start()
        stays, leaves = (self.joining(founder, name).launch() for name in ("stays", "leaves"))
        nodes = (founder, stays.wait(), leaves.wait())
        self.together(*nodes)
        for node in nodes:
            until(f"roles at {node.name}", lambda node=node: roles_of(node, node.peer_id) == ["developer"])

        path = f"/v1/keys/members/{stays.peer_id}/roles/architect"
        self.assertEqual(stays.answer("PUT", path)[0], 403)
        self.assertEqual(founder.answer("PUT", path)[0], 200)
        until("the new role", lambda: keys(stays)["role"] == "architect")

        recipients = {each["name"]: each["recipient"] for each in keys(founder)["roles"]}
        old = age.encrypt(b"old", [recipients["developer"]])
        self.assertEqual(age.decrypt(old, identities(leaves)), b"old")
        self.assertEqual(founder.answer("DELETE", f"/v1/keys/members/{leaves.peer_id}/roles/developer")[0], 200)
        self.assertEqual(founder.answer("POST", "/v1/keys/rotate")[0], 200)
        for node in (stays, leaves):
            until(f"the next epoch at {node.name}", lambda node=node: keys(node)["epoch"] == 2)
        recipients = {each["name"]: each["recipient"] for each in keys(leaves)["roles"]}
        new = age.encrypt(b"new", [recipients["developer"]])
        for node in (founder, stays):
            self.assertEqual(age.decrypt(new, identities(node)), b"new")
            self.assertEqual(age.decrypt(old, identities(node)), b"old")
        self.assertEqual(identities(leaves), [])

        # Killed and started again: the same keys from its own disk.
        stays.kill()
        stays.start()
        self.assertEqual((keys(stays)["epoch"], keys(stays)["role"]), (2, "architect"))

    @threaded
    def test_a_wrong_passphrase(self) -> None:
        node = self.node("node", CHORUS_KEYRING_PASSPHRASE="correct horse").start()
        recipient = keys(node)["members"][0]["recipient"]
        node.kill()
        for settings in ({}, {"CHORUS_KEYRING_PASSPHRASE": "battery staple"}):
            line = self.refusal(node.data, status=78, **settings)
            self.assertIn("CHORUS_KEYRING_PASSPHRASE_FILE", line)
        node.start()
        self.assertEqual(keys(node)["members"][0]["recipient"], recipient)
