from __future__ import annotations

from pathlib import Path

from chorus.client.errors import ClientError
from chorus.client.fetch import Item, checked
from tests.support import PureTestCase


class Targets(PureTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)

    def check(self, *paths: str, force: bool = False) -> list[Path]:
        items = [Item(path, "0" * 64, 1) for path in paths]
        return [target for _, target in checked(items, self.directory, force=force)]

    def test_names_stay_inside(self) -> None:
        self.assertEqual(self.check("a", "b/c.txt"), [self.directory / "a", self.directory / "b/c.txt"])
        for bad in ("/etc/passwd", "../x", "a/../../x", "", ".", "a\0b", "..", "b/.."):
            with self.assertRaisesRegex(ClientError, "leaves the directory"):
                self.check(bad)

    def test_nothing_is_overwritten_unasked(self) -> None:
        (self.directory / "a").write_text("mine")
        (self.directory / "c").symlink_to("nowhere")
        with self.assertRaisesRegex(ClientError, "a and 1 more would be overwritten; say --force"):
            self.check("a", "b", "c")
        self.assertEqual(len(self.check("a", "b", "c", force=True)), 3)

    def test_no_folder_on_the_way_is_a_link(self) -> None:
        (self.directory / "link").symlink_to("/tmp")
        with self.assertRaisesRegex(ClientError, "is a link"):
            self.check("link/x", force=True)

    def test_a_directory_is_in_the_way(self) -> None:
        (self.directory / "a").mkdir()
        with self.assertRaisesRegex(ClientError, "is a directory"):
            self.check("a", force=True)
