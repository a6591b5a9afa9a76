"""python3 -m textstats FILE…: one JSON line a file."""

import json
import sys
from pathlib import Path

from textstats import stats


def main(paths):
    if not paths:
        sys.exit("usage: python3 -m textstats FILE…")
    for path in paths:
        print(json.dumps({"file": path, **stats(Path(path).read_text(encoding="utf-8"))}, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
