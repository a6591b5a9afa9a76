"""The routes of the API: one row each, in the order of the OpenAPI document."""

from __future__ import annotations

from chorus.http import blobs, events, keys, node, tasks, ucxi
from chorus.http.routes import Route

ROUTES: tuple[Route, ...] = (*tasks.ROUTES, *events.ROUTES, *blobs.ROUTES, *ucxi.ROUTES, *keys.ROUTES, *node.ROUTES)
