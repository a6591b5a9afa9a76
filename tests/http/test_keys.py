"""`/v1/keys` over a real socket."""

from __future__ import annotations

from tests.http.wire import ApiCase

PEER = "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"
ROLE = f"/v1/keys/members/{PEER}/roles/admin"


class KeysRoutes(ApiCase):
    async def test_roles_and_changes(self) -> None:
        listed = (await self.ask("GET", "/v1/keys")).json
        self.assertEqual([each["name"] for each in listed["roles"]], ["developer"])
        for method, path, change in (
            ("PUT", ROLE, ("grant", PEER, "admin")),
            ("DELETE", ROLE, ("revoke", PEER, "admin")),
            ("POST", "/v1/keys/rotate", ("rotate",)),
        ):
            answer = await self.ask(method, path)
            self.assertEqual((answer.status, self.keys.changes[-1]), (200, change))
        self.assertEqual(answer.json["epoch"], 2)

    async def test_others_than_the_founder_are_refused(self) -> None:
        self.keys.founder = False
        for method, path in (("PUT", ROLE), ("DELETE", ROLE), ("POST", "/v1/keys/rotate")):
            self.assert_problem(await self.ask(method, path), 403, "not_founder")

    async def test_names_that_are_none(self) -> None:
        for path in (f"/v1/keys/members/{PEER}/roles/a%20b", "/v1/keys/members/nobody!/roles/admin"):
            self.assert_problem(await self.ask("PUT", path), 404, "unknown_role")
        self.assertEqual(self.keys.changes, [])

    async def test_no_token(self) -> None:
        for method, path in (("GET", "/v1/keys"), ("PUT", ROLE), ("DELETE", ROLE), ("POST", "/v1/keys/rotate")):
            self.assert_problem(await self.ask(method, path, token=None), 401, "unauthorized")
        self.assertEqual(self.keys.changes, [])
