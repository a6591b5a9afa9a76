"""The image of each language."""

from __future__ import annotations

from chorus.sandbox.images import ImageMap
from tests.support import PureTestCase


class Images(PureTestCase):
    def test_default(self) -> None:
        self.assertEqual(ImageMap().image_for("python"), "chorus-python-dev")
        self.assertEqual(ImageMap().image_for("cobol"), "chorus-base-dev")

    def test_asked_wins_then_override_then_registry(self) -> None:
        images = ImageMap({"go": "golang:1.23"}, "registry.example:5000/team/")
        self.assertEqual(images.image_for("go", "me/go@sha256:00"), "me/go@sha256:00")
        self.assertEqual(images.image_for("go"), "golang:1.23")
        self.assertEqual(images.image_for("rust"), "registry.example:5000/team/chorus-rust-dev")

    def test_hint(self) -> None:
        self.assertIn("deploy/images/build python", ImageMap().how_to_get("chorus-python-dev:latest"))
        self.assertIn("docker pull x/y:1", ImageMap().how_to_get("x/y:1"))
