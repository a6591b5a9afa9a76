"""The newest `roles.json` with the keys that this node has opened in it, as other parts read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

import attrs

from chorus.security.role_changes import NO_SECRETS, Secrets
from chorus.security.roles import BASE, Rank, RolesFile, UnknownRole

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.seams import Document


@attrs.frozen
class HeldRoles:
    """`file` is verified and on disk; None before there is one."""

    me: PeerId
    file: RolesFile | None = None
    encoded: bytes = b""
    secrets: Secrets = attrs.field(default=NO_SECRETS, repr=False)
    identities: tuple[str, ...] = attrs.field(init=False, repr=False)
    """Of all roles, the newest epoch first."""

    @identities.default
    def _in_order(self) -> tuple[str, ...]:
        epochs = zip_longest(*(self.secrets[role] for role in sorted(self.secrets)))
        return tuple(key for keys in epochs for key in keys if key is not None)

    @property
    def serial(self) -> int:
        return 0 if self.file is None else self.file.serial

    @property
    def rank(self) -> Rank:
        return self.epoch, self.serial

    @property
    def epoch(self) -> int:
        return 0 if self.file is None else self.file.epoch

    @property
    def founder(self) -> PeerId | None:
        return None if self.file is None else self.file.founder

    @property
    def role(self) -> str:
        return BASE if self.file is None else self.file.highest(self.file.roles_of(self.me))

    def roles_of(self, peer: PeerId | str) -> frozenset[str]:
        return frozenset() if self.file is None else self.file.roles_of(peer)

    def wrote_under(self, peer: PeerId | str) -> Mapping[str, int]:
        return {} if self.file is None else self.file.wrote_under(peer)

    def recipients(self, role: str) -> tuple[str, ...]:
        """Raises `UnknownRole`."""
        if self.file is None:
            raise UnknownRole(f"there is no role {role!r} yet: this node has no roles.json of its cluster's founder")
        return self.file.recipients(role)

    def document(self) -> Document:
        """As `http.ports.KeysPort` shows it."""
        file = self.file
        roles = sorted(file.roles.items()) if file is not None else []
        return {
            "founder": None if file is None else str(file.founder),
            "serial": self.serial,
            "epoch": self.epoch,
            "peer_id": str(self.me),
            "role": self.role,
            "roles": [
                {
                    "name": name,
                    "reads": list(entry.reads),
                    "recipient": entry.recipient,
                    "readable": name in self.secrets,
                }
                for name, entry in roles
            ],
            "members": [
                {"peer_id": each.peer_id, "roles": list(each.roles), "recipient": each.recipient}
                for each in (() if file is None else file.members)
            ],
        }
