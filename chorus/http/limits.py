"""Named limits of the HTTP ports, each with its reason."""

from __future__ import annotations

from chorus import strictjson

MAX_URI = 2048
"""Bytes of a request's target. The longest of ours is a blob's path with a digest: under 200."""
MAX_HEADERS = 64
"""Header fields of one request; browsers send about 20."""
MAX_LENGTH_DIGITS = 18
"""Of a Content-Length; Python itself refuses to read over 4300."""
MAX_HEADER_BYTES = 16 * 1024
"""The request line and all header fields together."""
MAX_JSON = strictjson.MAX_BYTES
"""A JSON body: the largest legal task specification fits (spec.py) with room for escapes."""
MAX_IGNORED_BODY = 16 * 1024
"""A body where none is expected: read and dropped, so that a polite client keeps its connection."""
MAX_INLINE_DRAIN = 64 * 1024
"""The rest of a refused body that is read before answering; with more to come the answer comes first."""
LINGER_S = 2.0
"""After an early refusal: how long what the client still sends is dropped, so that it can read the answer (closing at
once would reset the connection and take the answer with it)."""
LINGER_BYTES = 4 * 1024 * 1024
"""And how much of it."""
IDLE_S = 60.0
"""A connection without a request."""
HEADERS_S = 10.0
"""From a request's first byte to the end of its headers."""
BODY_S = 60.0
"""A JSON body, in all."""
UPLOAD_WINDOW_S = 30.0
"""An upload must make `UPLOAD_WINDOW_BYTES` of progress in each such window."""
UPLOAD_WINDOW_BYTES = 16 * 1024
MAX_CONNECTIONS = 256
"""Open connections that have shown the token; clients of one node are few, and each costs about 40 KiB."""
MAX_NEWCOMERS = 128
"""Open connections of a port that have not: for one more, the one goes that has sent no whole request for longest. More
than `BACKLOG`, so that those who come together do not move each other before one of them could say a word."""
BACKLOG = 64
"""Connections that the system holds before they are accepted."""
MAX_STREAMS = 64
"""Event streams open at once."""
MAX_UPLOADS = 16
"""Uploads at once: each has a temporary file open."""
MAX_DOWNLOADS = 32
"""Downloads at once: each has a file open and a chunk in memory."""
DOWNLOAD_CHUNK = 256 * 1024
"""Bytes read from disk and written to the socket at a time: one chunk of a blob."""
HEARTBEAT_S = 15.0
"""Comments on a silent event stream, so that proxies and clients see it alive."""
STALL_S = 60.0
"""A reader of a stream or a download that takes nothing for so long is gone."""
MAX_STREAM_BACKLOG = 4 * 1024 * 1024
"""Bytes of events written while the reader holds; past this the stream is cut, and resumes by `Last-Event-ID`."""
MAX_PAGE = 200
DEFAULT_PAGE = 50
"""Tasks in one page of a list."""
