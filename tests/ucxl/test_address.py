"""Addresses: every text is one or is refused at its part and offset."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chorus.ucxl.address import (
    MAX_STEPS,
    VERSION_ROOM,
    Address,
    AddressError,
    Exactly,
    First,
    InForce,
    Latest,
    exact,
    project_problem,
    task_address,
)
from tests.support import PureTestCase

BASE = "ucxl://a:r@p:t"
HASH = "0123456789abcdef" * 4

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=12)
PATHS = st.lists(st.text("abc ~*^@=%é☕?#<>|", min_size=1, max_size=8), max_size=4)
TEMPORALS = st.one_of(
    st.none(),
    st.builds(Latest, st.none() | st.integers(0, MAX_STEPS)),
    st.builds(First, st.none() | st.integers(0, MAX_STEPS)),
    st.builds(InForce, st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)),
    st.builds(Exactly, st.text("0123456789abcdef", min_size=64, max_size=64)),
)


class ParseTests(PureTestCase):
    def test_all_parts(self) -> None:
        address = Address.parse("ucxl://agent:role@project:task/~~3/docs/a%20b")
        self.assertEqual(address, Address("agent", "role", "project", "task", ("docs", "a b"), Latest(3)))
        self.assertEqual(str(address), "ucxl://agent:role@project:task/~~3/docs/a%20b")
        self.assertEqual(str(address.base), "ucxl://agent:role@project:task/docs/a%20b")
        self.assertEqual(address.path_text, "docs/a%20b")

    def test_versions(self) -> None:
        for text, temporal, written in (
            ("*^", Latest(), "*^"),
            ("%2A%5e", Latest(), "*^"),
            ("*~", First(), "*~"),
            ("*%7E", First(), "*~"),
            ("~~0", Latest(0), "~~0"),
            ("%7E~12", Latest(12), "~~12"),
            ("^^7", First(7), "^^7"),
            ("%5E%5e7", First(7), "^^7"),
            ("@2026-11-30T12:00:00Z", InForce(1_796_040_000_000_000), "@2026-11-30T12:00:00Z"),
            ("@2026-11-30t13:30:00.250000+01:30", InForce(1_796_040_000_250_000), "@2026-11-30T12:00:00.25Z"),
            ("@1969-12-31T23:59:59.999999z", InForce(-1), "@1969-12-31T23:59:59.999999Z"),
            (f"={HASH.upper()}", Exactly(HASH), f"={HASH}"),
        ):
            with self.subTest(text=text):
                address = Address.parse(f"{BASE}/{text}/x")
                self.assertEqual((address.temporal, str(address)), (temporal, f"{BASE}/{written}/x"))

    def test_one_spelling(self) -> None:
        for text, written in (
            (f"{BASE}/", BASE),
            (f"{BASE}/*^/", f"{BASE}/*^"),
            (f"{BASE}/a/", f"{BASE}/a"),
            (f"{BASE}/%61", f"{BASE}/a"),
            (f"{BASE}/%c3%a9", f"{BASE}/%C3%A9"),
            (f"{BASE}/x^y", f"{BASE}/x%5Ey"),
            (f"{BASE}/x%7e%2A", f"{BASE}/x~*"),
            (f"{BASE}/a%3Ab%40", f"{BASE}/a:b@"),
        ):
            self.assertEqual(str(Address.parse(text)), written)

    def test_refusals_name_part_and_offset(self) -> None:
        names = len(BASE)
        for text, part, offset in (
            ("", "scheme", 0),
            ("ucx", "scheme", 3),
            ("http://a:r@p:t", "scheme", 0),
            ("ucxl:/a:r@p:t", "scheme", 6),
            ("UCXL://a:r@p:t", "scheme", 0),
            ("ucxl://", "agent", 7),
            ("ucxl://:r@p:t", "agent", 7),
            ("ucxl://a", "agent", 8),
            ("ucxl://a b:r@p:t", "agent", 8),
            ("ucxl://a%41:r@p:t", "agent", 8),
            ("ucxl://a:@p:t", "role", 9),
            ("ucxl://a:r:p:t", "role", 10),
            ("ucxl://a:r@:t", "project", 11),
            ("ucxl://a:r@p/t", "project", 12),
            ("ucxl://a:r@p:", "task", 13),
            ("ucxl://a:r@p:t?x", "task", 14),
            ("ucxl://a:r@p:té", "task", 14),
            (f"ucxl://{'a' * 129}:r@p:t", "agent", 7),
            (f"{BASE}//", "path", names + 1),
            (f"{BASE}/a//b", "path", names + 3),
            (f"{BASE}/.", "path", names + 1),
            (f"{BASE}/a/%2e%2E/b", "path", names + 3),
            (f"{BASE}/a/..", "path", names + 3),
            (f"{BASE}/a b", "path", names + 2),
            (f"{BASE}/a%2", "path", names + 2),
            (f"{BASE}/%zz", "temporal", names + 1),
            (f"{BASE}/a%ff", "path", names + 1),
            (f"{BASE}/a%00", "path", names + 1),
            (f"{BASE}/a%2Fb", "path", names + 1),
            (f"{BASE}/a\ud800", "path", names + 2),
            (f"{BASE}/*", "temporal", names + 1),
            (f"{BASE}/*^x", "temporal", names + 1),
            (f"{BASE}/~user", "temporal", names + 1),
            (f"{BASE}/~~", "temporal", names + 1),
            (f"{BASE}/~~01", "temporal", names + 1),
            (f"{BASE}/~~-1", "temporal", names + 1),
            (f"{BASE}/^^1000000000", "temporal", names + 1),
            (f"{BASE}/^^١", "temporal", names + 3),
            (f"{BASE}/@yesterday", "temporal", names + 1),
            (f"{BASE}/@2026-02-30T00:00:00Z", "temporal", names + 1),
            (f"{BASE}/@2026-01-01T24:00:00Z", "temporal", names + 1),
            (f"{BASE}/@2026-01-01T00:00:00", "temporal", names + 1),
            (f"{BASE}/@2026-01-01T00:00:00.1234567Z", "temporal", names + 1),
            (f"{BASE}/@0001-01-01T00:00:00+01:00", "temporal", names + 1),
            (f"{BASE}/={HASH[:-1]}", "temporal", names + 1),
            (f"{BASE}/={HASH}0", "temporal", names + 1),
            (f"{BASE}/*^/*^", "path", names + 4),
            (f"{BASE}/" + "a" * 1024, "length", 1024),
            (f"{BASE}/" + "a" + "^" * 900, "length", names + 902),
        ):
            with self.subTest(text=text):
                error = self.assertRaises(AddressError, Address.parse, text)
                self.assertEqual((error.part, error.offset), (part, offset), str(error))
                self.assertNotIn("\n", str(error))

    @given(st.text() | st.text("ucxl:/@.*^~=%aZ09-", max_size=60).map(lambda text: f"ucxl://{text}"))
    def test_every_text_is_an_address_or_refused(self, text: str) -> None:
        try:
            address = Address.parse(text)
        except AddressError as error:
            self.assertTrue(0 <= error.offset <= len(text))
        else:
            self.assertEqual(Address.parse(str(address)), address)
            self.assertEqual(str(Address.parse(str(address))), str(address))

    @given(st.text("*^~@=%0aZ:.-/5E7", max_size=30).map(lambda text: f"{BASE}/{text}"))
    def test_every_rest_is_read_or_refused(self, text: str) -> None:
        try:
            address = Address.parse(text)
        except AddressError as error:
            self.assertTrue(len(BASE) <= error.offset <= len(text))
        else:
            self.assertEqual(Address.parse(str(address)), address)

    @given(NAMES, NAMES, NAMES, NAMES, PATHS, TEMPORALS)
    def test_what_is_written_is_read(self, a: str, b: str, c: str, d: str, path: list[str], temporal: object) -> None:
        path = [segment for segment in path if segment not in (".", "..")]
        if path and path[0][0] in "*^~@=":
            path[0] = f"x{path[0]}"
        address = Address(a, b, c, d, tuple(path), temporal)  # type: ignore[arg-type]
        text = str(address)
        self.assertTrue(text.isascii())
        self.assertEqual(Address.parse(text), address)
        self.assertEqual(Address.parse(text.replace("^", "%5E").replace("~", "%7e").replace("*", "%2A")), address)


class PublishedTests(PureTestCase):
    def test_refused(self) -> None:
        for text, part, offset in (
            (f"{BASE}/*^", "temporal", 15),
            ("ucxl://any:r@p:t", "agent", 7),
            ("ucxl://a:any@p:t", "role", 9),
            ("ucxl://a:r@any:t", "project", 11),
            ("ucxl://a:r@p:any", "task", 13),
            (f"{BASE}/", "spelling", 14),
            (f"{BASE}/x%61", "spelling", 16),
        ):
            with self.subTest(text=text):
                error = self.assertRaises(AddressError, Address.published, text)
                self.assertEqual((error.part, error.offset), (part, offset), str(error))
        self.assertEqual(str(Address.published(f"{BASE}/x/any")), f"{BASE}/x/any")

    def test_each_version_has_an_address(self) -> None:
        longest = f"{BASE}/".ljust(Address.MAX - VERSION_ROOM, "x")
        self.assertEqual(len(exact(longest, HASH)), Address.MAX)
        self.assertEqual(str(Address.parse(exact(longest, HASH)).base), longest)
        error = self.assertRaises(AddressError, Address.published, f"{longest}x")
        self.assertEqual((error.part, error.offset), ("length", Address.MAX - VERSION_ROOM))


class ExactTests(PureTestCase):
    def test_the_version_stands_before_the_path(self) -> None:
        self.assertEqual(exact(f"{BASE}/docs/a%20b", HASH), f"{BASE}/={HASH}/docs/a%20b")
        self.assertEqual(exact(BASE, HASH), f"{BASE}/={HASH}")
        self.assertRaises(AddressError, exact, f"{BASE}/*^", HASH)


class TaskAddressTests(PureTestCase):
    def test_projects(self) -> None:
        self.assertEqual(str(task_address("peer", "developer", "a/b.c", "t-1")), "ucxl://peer:developer@a..b.c:t-1")
        self.assertEqual(str(task_address("peer", "developer", None, "t-1")), "ucxl://peer:developer@none:t-1")

    def test_projects_that_would_share_a_name_are_refused(self) -> None:
        for project in ("a..b", "none", "any", "a./b", "a/.b", "a/../b", "/".join("a" * 50)):
            with self.subTest(project=project):
                self.assertIsNotNone(project_problem(project))
                error = self.assertRaises(AddressError, task_address, "p", "r", project, "t")
                self.assertEqual((error.part, error.offset), ("project", 11))
        for fine in (None, "a", "a.b", "team/tool", "a//b", "None"):
            self.assertIsNone(project_problem(fine))

    @given(st.lists(st.text("ab./", min_size=1, max_size=8), min_size=2, max_size=2, unique=True))
    def test_two_projects_never_share_a_name(self, pair: list[str]) -> None:
        taken = [each for each in pair if project_problem(each) is None]
        self.assertEqual(len({each.replace("/", "..") for each in taken}), len(taken))
