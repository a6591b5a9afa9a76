from __future__ import annotations

import json

from twisted.internet.defer import Deferred

from chorus.errors import LocalError
from chorus.http import limits
from chorus.tasks.journal import NoQuorum
from tests.http.wire import ApiCase, Response

SECURE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Tasks(ApiCase):
    async def test_submit(self) -> None:
        response = await self.post({"commands": ["make test"], "title": "tests"})
        self.assertEqual(response.status, 202)
        self.assertEqual(response.headers["location"], f"/v1/tasks/{response.json['id']}")
        self.assertEqual((response.json["state"], response.json["title"]), ("submitted", "tests"))
        again = await self.ask("GET", response.headers["location"])
        self.assertEqual((again.status, again.json), (200, response.json))

    async def test_answer_comes_after_the_commit_alone(self) -> None:
        self.tasks.before_submit = Deferred()
        wire = await self.connect()
        body = b'{"commands":["true"]}'
        wire.transport.write(
            self.head("POST", "/v1/tasks", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
        )
        (await self.ask("GET", "/v1/status"))
        self.assertEqual(wire.received, b"")
        self.tasks.before_submit.callback(None)
        self.assertTrue((await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 202"))

    async def test_a_client_that_hangs_up_does_not_take_its_task_back(self) -> None:
        self.tasks.before_submit = Deferred()
        wire = await self.connect()
        body = b'{"commands":["true"]}'
        wire.transport.write(
            self.head("POST", "/v1/tasks", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
        )
        await self.ask("GET", "/v1/status")
        wire.transport.abortConnection()
        await wire.closed
        while self.service.api.site.connections:
            await self.ask("GET", "/v1/status")
            if self.service.api.site.connections <= 1:
                break
        self.tasks.before_submit.callback(None)
        self.assertEqual(len(self.tasks.tasks), 1)

    async def test_every_status_has_its_phrase(self) -> None:
        wire = await self.connect()
        wire.transport.write(b"GET /v1/status HTTP/1.1\r\nHost: other.example\r\n\r\n")
        self.assertTrue((await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 421 Misdirected Request\r\n"))
        wire = await self.connect()
        body = b'{"comands":["true"]}'
        wire.transport.write(
            self.head("POST", "/v1/tasks", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
        )
        self.assertRegex(await wire.until(b"\r\n\r\n"), rb"\AHTTP/1.1 422 Unprocessable (Entity|Content)\r\n")

    async def test_unknown_field(self) -> None:
        response = await self.post({"comands": ["true"]})
        self.assert_problem(response, 422, "invalid_task")
        self.assertEqual(response.json["field"], "comands")
        self.assertIn("did you mean commands?", response.json["detail"])

    async def test_malformed_bodies(self) -> None:
        for body in (b"", b"{", b"[", b'{"a":1,"a":2}', b"NaN", b"\xff", b"[" * 100, b'"\\ud800"', b"1" * 5000):
            response = await self.post(body)
            self.assert_problem(response, 400, "invalid_json")

    async def test_a_body_that_is_no_object(self) -> None:
        for body in ([], 1, "a", None, True):
            self.assert_problem(await self.post(body), 422, "invalid_task")

    async def test_idempotency(self) -> None:
        first = await self.post({"commands": ["a"], "idempotency_key": "k"})
        second = await self.post({"commands": ["a"], "idempotency_key": "k"})
        self.assertEqual(first.json["id"], second.json["id"])
        third = await self.post({"commands": ["b"], "idempotency_key": "k"})
        self.assert_problem(third, 409, "idempotency_conflict")

    async def test_list_pages(self) -> None:
        made = [self.tasks.make() for _ in range(5)]
        seen: list[str] = []
        after = ""
        for _ in range(3):
            page = (await self.ask("GET", f"/v1/tasks?limit=2{after}")).json
            seen += [task["id"] for task in page["tasks"]]
            after = f"&after={page['next']}"
        self.assertIsNone(page["next"])
        self.assertEqual(seen, sorted(made, reverse=True))

    async def test_list_by_state(self) -> None:
        one, _ = self.tasks.make(), self.tasks.make()
        self.tasks.end(one, "completed", "exit")
        page = (await self.ask("GET", "/v1/tasks?state=completed")).json
        self.assertEqual([task["id"] for task in page["tasks"]], [one])

    async def test_bad_queries(self) -> None:
        for query in (
            "state=done",
            "limit=0",
            "limit=201",
            "limit=x",
            "limit=1e3",
            "limit=" + "9" * 400,
            "limit=1&limit=2",
            "limit=",
            "after=",
            "after=../x",
            "afer=x",
            "%ff=1",
            "state=%00",
        ):
            self.assert_problem(await self.ask("GET", f"/v1/tasks?{query}"), 400, "bad_query")

    async def test_a_near_parameter_is_named(self) -> None:
        response = await self.ask("GET", "/v1/tasks?sate=failed")
        self.assertIn("did you mean state?", response.json["detail"])

    async def test_cancel(self) -> None:
        task_id = self.tasks.make()
        response = await self.ask("DELETE", f"/v1/tasks/{task_id}?reason=not%20needed")
        self.assertEqual((response.status, response.json["state"]), (200, "cancelled"))
        self.assertEqual(self.tasks.cancels, [(task_id, "api", "not needed")])

    async def test_cancel_with_a_bad_reason(self) -> None:
        task_id = self.tasks.make()
        for reason in ("a%0ab", "x" * 257):
            self.assert_problem(await self.ask("DELETE", f"/v1/tasks/{task_id}?reason={reason}"), 400, "bad_query")
        self.assertEqual(self.tasks.cancels, [])

    async def test_what_is_no_id_reaches_nothing(self) -> None:
        for bad in (
            "nope",
            "%2e%2e",
            "..%2f..%2fetc%2fpasswd",
            "../../etc/passwd",
            "%2e%2e%2f" * 20,
            "0" * 27,
            "0" * 25 + "%00",
            "'%20or%201=1",
            "%0d%0aX:1",
            "01h0000000000000000000000U",
        ):
            for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
                response = await self.ask(method, f"/v1/tasks/{bad}{tail}")
                self.assertIn(response.status, (400, 404), bad)
                self.assertEqual(response.headers["content-type"], "application/problem+json")

    async def test_unknown_id(self) -> None:
        task_id = "0" * 26
        for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
            self.assert_problem(await self.ask(method, f"/v1/tasks/{task_id}{tail}"), 404, "unknown_task")

    async def test_no_quorum_is_a_503_with_a_time_to_wait(self) -> None:
        self.tasks.broken = NoQuorum("nobody can commit now")
        response = await self.post({"commands": ["true"]})
        self.assert_problem(response, 503, "no_quorum")
        self.assertEqual(response.headers["retry-after"], "2")

    async def test_trouble_here_is_a_500(self) -> None:
        self.tasks.broken = LocalError("the disk is gone")
        self.assert_problem(await self.post({"commands": ["true"]}), 500, "local_error")

    async def test_a_bug_shows_nothing_of_itself(self) -> None:
        self.tasks.broken = ZeroDivisionError("s3cret-detail")
        response = await self.post({"commands": ["true"]})
        self.assert_problem(response, 500, "internal_error")
        self.assertNotIn(b"s3cret-detail", response.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Node(ApiCase):
    async def test_peers_and_status(self) -> None:
        self.assertEqual((await self.ask("GET", "/v1/peers")).json, {"peers": self.node.peers()})
        self.assertEqual((await self.ask("GET", "/v1/pubsub")).json, self.node.pubsub())
        self.assertEqual((await self.ask("GET", "/v1/status")).json, self.node.status())

    async def test_metrics(self) -> None:
        self.metrics.gauge("chorus_peers_connected", "Peers.", lambda: 3)
        await self.ask("GET", "/v1/status")
        response = await self.ask("GET", "/metrics")
        self.assertEqual(response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        self.assertIn(b"\nchorus_peers_connected 3.0\n", response.body)
        self.assertIn(b'chorus_http_requests_total{method="GET",status="200"} 1.0', response.body)
        self.assertIn(b"process_resident_memory_bytes", response.body)

    async def test_openapi_is_open(self) -> None:
        response = await self.ask("GET", "/openapi.json", token=None)
        self.assertEqual((response.status, response.json["openapi"]), (200, "3.1.0"))


class Protocol(ApiCase):
    async def test_token(self) -> None:
        wrong = ("", "x", "test-token-012345678", "test-token-0123456789x", "TEST-TOKEN-0123456789", "é")
        for path in ("/v1/tasks", "/v1/status", "/metrics", "/v1/blobs/" + "0" * 64, "/nothing"):
            missing = await self.ask("GET", path, token=None)
            self.assert_problem(missing, 401, "unauthorized")
            self.assertEqual(missing.headers["www-authenticate"], 'Bearer realm="chorus"')
            for token in wrong:
                response = await self.ask("GET", path, token=token)
                self.assert_problem(response, 401, "unauthorized")
                self.assertIn('error="invalid_token"', response.headers["www-authenticate"])
                self.assertNotIn(b"test-token", response.body)

    async def test_other_forms_of_authorization(self) -> None:
        for line in ("Basic dGVzdA==", "Bearer", "Bearer  ", "test-token-0123456789", "Bearer a b"):
            response = await self.ask("GET", "/v1/status", f"Authorization: {line}", token=None)
            self.assert_problem(response, 401, "unauthorized")
        twice = await self.ask("GET", "/v1/status", "Authorization: Bearer x")
        self.assert_problem(twice, 401, "unauthorized")

    async def test_the_scheme_is_case_insensitive(self) -> None:
        response = await self.ask("GET", "/v1/status", "Authorization: bearer test-token-0123456789", token=None)
        self.assertEqual(response.status, 200)

    async def test_host(self) -> None:
        for host in (
            "127.0.0.1",
            "localhost",
            "LOCALHOST:8080",
            "[::1]:80",
            "192.0.2.1",
            "node1.example.org",
            "node1.example.org.",
        ):
            self.assertEqual((await self.ask("GET", "/v1/status", host=host)).status, 200, host)

    async def test_dns_rebinding(self) -> None:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "node1.example.org.evil"):
            self.assert_problem(await self.ask("GET", "/v1/status", host=host), 421, "unknown_host")
            self.assert_problem(await self.ask("GET", "/openapi.json", host=host), 421, "unknown_host")

    async def test_malformed_hosts(self) -> None:
        for host in (None, "", "a b", "a/b", "[::1", "a:b", "127.0.0.1:999999", "ü"):
            self.assert_problem(await self.ask("GET", "/v1/status", host=host), 400, "bad_host")
        self.assert_problem(await self.ask("GET", "/v1/status", "Host: localhost"), 400, "bad_host")

    async def test_unknown_paths(self) -> None:
        for path in (
            "/",
            "/v1",
            "/v1/tasks/",
            "//v1/tasks",
            "/v1//tasks",
            "/v2/tasks",
            "/v1/tasks/../status",
            "/V1/tasks",
        ):
            self.assert_problem(await self.ask("GET", path), 404, "not_found")

    async def test_malformed_targets(self) -> None:
        self.assert_problem(await self.ask("GET", "*"), 400, "bad_target")
        self.assert_problem(await self.ask("GET", "http://evil.example/v1/status"), 400, "bad_target")
        self.assert_problem(await self.ask("GET", "/v1/%ff"), 400, "bad_target")
        self.assert_problem(await self.ask("GET", "/v1/tasks/%00"), 400, "bad_target")

    async def test_methods(self) -> None:
        table = {
            "/v1/tasks": {"GET", "HEAD", "POST"},
            "/v1/tasks/" + "0" * 26: {"DELETE", "GET", "HEAD"},
            "/v1/tasks/" + "0" * 26 + "/events": {"GET", "HEAD"},
            "/v1/blobs": {"PUT"},
            "/v1/blobs/" + "0" * 64: {"GET", "HEAD", "PUT"},
            "/v1/peers": {"GET", "HEAD"},
            "/v1/pubsub": {"GET", "HEAD"},
            "/metrics": {"GET", "HEAD"},
        }
        for path, allowed in table.items():
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"):
                if method not in allowed:
                    response = await self.ask(method, path)
                    self.assert_problem(response, 405, "method_not_allowed")
                    self.assertEqual(set(response.headers["allow"].split(", ")), allowed)

    async def test_a_method_in_small_letters_is_malformed(self) -> None:
        self.assert_problem(await self.ask("get", "/v1/status"), 400, "bad_method")

    async def test_head_is_get_without_the_body(self) -> None:
        task_id = self.tasks.make()
        blob = self.blobs.put(b"content")
        for path in ("/v1/status", f"/v1/tasks/{task_id}", "/openapi.json", f"/v1/blobs/{blob}"):
            got, head = await self.ask("GET", path), await self.ask("HEAD", path)
            self.assertEqual((head.status, head.rest, head.body), (200, b"", b""))
            self.assertEqual(head.headers["content-length"], str(len(got.body)))
            self.assertEqual(head.headers["content-type"], got.headers["content-type"])
        events = await self.ask("HEAD", f"/v1/tasks/{task_id}/events")
        self.assertEqual((events.status, events.headers["content-type"]), (200, "text/event-stream"))
        self.assertEqual(self.tasks.watches, set())

    async def test_accept(self) -> None:
        for accept in (
            "application/json",
            "*/*",
            "application/*",
            "text/html, */*;q=0.1",
            "",
            "Application/JSON;q=1.0",
        ):
            self.assertEqual((await self.ask("GET", "/v1/status", f"Accept: {accept}")).status, 200, accept)
        for accept in ("text/html", "application/json;q=0", "application/json;q=0.0, */*", "image/*"):
            response = await self.ask("GET", "/v1/status", f"Accept: {accept}")
            self.assert_problem(response, 406, "not_acceptable")
        task_id = self.tasks.make()
        for path in (f"/v1/tasks/{task_id}/events", "/metrics", "/v1/blobs/" + self.blobs.put(b"x")):
            self.assert_problem(await self.ask("GET", path, "Accept: application/json"), 406, "not_acceptable")

    async def test_media_type_of_a_submission(self) -> None:
        body = b'{"commands":["true"]}'
        for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"):
            response = await self.ask("POST", "/v1/tasks", f"Content-Type: {kind}", body=body)
            self.assertEqual(response.status, 202, kind)
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin-1",
            "json",
            "",
        ):
            response = await self.ask("POST", "/v1/tasks", f"Content-Type: {kind}", body=body)
            self.assert_problem(response, 415, "unsupported_media_type")
        self.assert_problem(await self.ask("POST", "/v1/tasks", body=body), 415, "unsupported_media_type")
        self.assert_problem(await self.post({}, "Content-Encoding: gzip"), 415, "unsupported_encoding")

    async def test_security_headers_are_on_every_answer(self) -> None:
        answers = [
            await self.ask("GET", "/v1/status"),
            await self.ask("GET", "/v1/status", token=None),
            await self.ask("GET", "/nothing"),
            await self.ask("PATCH", "/v1/status"),
            await self.post(b"{"),
        ]
        for response in answers:
            for name, value in SECURE.items():
                self.assertEqual(response.headers.get(name), value, (response.status, name))
            self.assertEqual(response.headers["server"], "chorus")
            self.assertNotIn("access-control-allow-origin", response.headers)

    async def test_requests_in_a_row_on_one_connection(self) -> None:
        wire = await self.connect()
        wire.transport.write(
            self.head("GET", "/v1/status")
            + self.head("GET", "/nothing")
            + self.head("GET", "/v1/peers", "Connection: close")
        )
        first = Response(await wire.closed)
        second = Response(first.rest)
        third = Response(second.rest)
        self.assertEqual((first.status, second.status, third.status, third.rest), (200, 404, 200, b""))

    async def test_an_old_client(self) -> None:
        response = await self.say(
            b"GET /v1/status HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer test-token-0123456789\r\n\r\n"
        )
        self.assertEqual((response.status, json.loads(response.body)), (200, self.node.status()))


class Limits(ApiCase):
    async def test_a_json_body_over_the_limit_is_refused_by_its_length(self) -> None:
        wire = await self.connect()
        wire.transport.write(
            self.head("POST", "/v1/tasks", "Content-Type: application/json", f"Content-Length: {limits.MAX_JSON + 1}")
        )
        # Nothing of the body was sent.
        self.assert_problem(Response(await wire.closed), 413, "body_too_large")

    async def test_a_chunked_json_body_is_refused_where_it_passes_the_limit(self) -> None:
        wire = await self.connect()
        wire.transport.write(
            self.head("POST", "/v1/tasks", "Content-Type: application/json", "Transfer-Encoding: chunked")
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(limits.MAX_JSON // 0x10000):
            wire.transport.write(chunk)
        await self.ask("GET", "/v1/status")
        self.assertEqual(wire.received, b"")
        wire.transport.write(b"1\r\n \r\n")
        self.assert_problem(Response(await wire.closed), 413, "body_too_large")

    async def test_the_largest_json_body_is_read(self) -> None:
        body = b'{"commands":["true"]}'
        response = await self.post(body + b" " * (limits.MAX_JSON - len(body)))
        self.assertEqual(response.status, 202)

    async def test_a_refused_body_is_not_read_and_the_answer_not_lost(self) -> None:
        wire = await self.connect()
        wire.transport.write(self.head("PUT", "/v1/blobs", f"Content-Length: {MAX_UPLOAD}", token="wrong-wrong-wrong"))
        wire.transport.write(b"x" * MAX_UPLOAD)
        self.assert_problem(Response(await wire.closed), 401, "unauthorized")
        self.assertEqual(self.blobs.writers, [])

    async def test_after_a_small_refused_body_the_connection_goes_on(self) -> None:
        wire = await self.connect()
        body = b"x" * 1000
        wire.transport.write(
            self.head("POST", "/v1/tasks", f"Content-Length: {len(body)}", token="wrong")
            + body
            + self.head("GET", "/v1/status", "Connection: close")
        )
        first = Response(await wire.closed)
        self.assert_problem(first, 401, "unauthorized")
        self.assertEqual(Response(first.rest).status, 200)

    async def test_expect_100_continue(self) -> None:
        body = b'{"commands":["true"]}'
        wire = await self.connect()
        wire.transport.write(
            self.head(
                "POST",
                "/v1/tasks",
                "Content-Type: application/json",
                "Expect: 100-continue",
                f"Content-Length: {len(body)}",
            )
        )
        self.assertEqual(await wire.until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.transport.write(body)
        self.assertIn(b"HTTP/1.1 202", await wire.until(b"HTTP/1.1 202"))

    async def test_expect_100_continue_refused(self) -> None:
        wire = await self.connect()
        wire.transport.write(
            self.head("POST", "/v1/tasks", "Expect: 100-continue", "Content-Length: 10", token="wrong")
        )
        response = Response(await wire.closed)
        self.assert_problem(response, 401, "unauthorized")

    async def test_a_body_where_none_is_expected_is_dropped(self) -> None:
        self.assertEqual((await self.ask("GET", "/v1/status", body=b"x" * limits.MAX_IGNORED_BODY)).status, 200)
        self.assert_problem(
            await self.ask("GET", "/v1/status", body=b"x" * (limits.MAX_IGNORED_BODY + 1)), 413, "body_too_large"
        )

    async def test_long_target(self) -> None:
        self.assert_problem(await self.ask("GET", "/v1/tasks?" + "a" * limits.MAX_URI), 414, "uri_too_long")

    async def test_large_headers(self) -> None:
        for lines in (
            ["X: " + "a" * limits.MAX_HEADER_BYTES],
            ["X: " + "a" * 1000] * 17,
            ["A: b"] * limits.MAX_HEADERS,
        ):
            self.assert_problem(await self.ask("GET", "/v1/status", *lines), 431, "headers_too_large")

    async def test_what_is_no_http(self) -> None:
        for data in (
            b"hello\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
            b"GET / HTTP/1.1\r\nX y: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
            b"GET / HTTP/1.1\r\n\tX: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        ):
            self.assert_problem(await self.say(data), 400, "bad_request")

    async def test_a_tls_client_is_answered_at_once(self) -> None:
        self.assert_problem(await self.say(b"\x16\x03\x01\x02\x00\x01"), 400, "bad_request")

    async def test_limit_length_digits(self) -> None:
        most = self.head("PUT", "/v1/blobs", "Content-Length: " + "9" * limits.MAX_LENGTH_DIGITS)
        self.assertEqual((await self.say(most)).status, 413)
        for digits in (limits.MAX_LENGTH_DIGITS + 1, 5000):
            for after in ((), ("X: y",)):
                head = self.head("PUT", "/v1/blobs", "Content-Length: " + "9" * digits, *after)
                self.assert_problem(await self.say(head), 400, "bad_request")

    async def test_malformed_chunks(self) -> None:
        for data in (b"x\r\n", b"-1\r\n", b"1\r\nab\r\n", b"0" * 5000):
            head = self.head("POST", "/v1/tasks", "Content-Type: application/json", "Transfer-Encoding: chunked")
            self.assert_problem(await self.say(head + data), 400, "bad_request")

    async def test_slow_headers(self) -> None:
        self.patch(limits, "HEADERS_S", 0.05)
        wire = await self.connect()
        wire.transport.write(b"GET / HTTP/1.1\r\nHost: lo")
        self.assert_problem(Response(await wire.closed), 408, "too_slow")

    async def test_a_slow_body(self) -> None:
        self.patch(limits, "BODY_S", 0.05)
        wire = await self.connect()
        wire.transport.write(self.head("POST", "/v1/tasks", "Content-Type: application/json", "Content-Length: 10"))
        self.assert_problem(Response(await wire.closed), 408, "too_slow")

    async def test_an_idle_connection(self) -> None:
        self.patch(limits, "IDLE_S", 0.05)
        wire = await self.connect()
        self.assertEqual(await wire.closed, b"")


MAX_UPLOAD = 4 * 1024 * 1024 - 100_000
