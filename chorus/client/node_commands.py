"""Commands about the node. Each takes the parsed options and the node's API, and returns the exit status."""

from __future__ import annotations

from chorus.client import show
from chorus.client.api import NodeApi
from chorus.client.task_options import Document, Options


def peers(options: Options, api: NodeApi) -> int:
    found = api.json("GET", "/v1/peers")
    if options.json:
        show.document(found)
        return 0
    # Nobody there may be as it should be, or a node that was refused.
    alone = None if found["peers"] else api.json("GET", "/v1/status")["alone"]
    nobody = show.safe(f"no peers: {alone}") if alone else "no peers"
    rows = [
        (
            peer["agent_id"] or "",
            peer["role"] or "",
            _availability(peer["availability"] or {}),
            "" if peer["latency_ms"] is None else f"{peer['latency_ms']:.1f} ms",
            "" if peer.get("score") is None else f"{peer['score']:.1f}",
            (peer["direction"] or "") + (", direct" if peer.get("direct") else ""),
            peer["address"] or "",
            peer["peer_id"],
        )
        for peer in found["peers"]
    ]
    show.table(("agent", "role", "state", "latency", "score", "direction", "address", "peer id"), rows, nobody)
    return 0


def _availability(said: Document) -> str:
    if said.get("max_tasks") == 0:
        return "runs no tasks"
    if said.get("status") == "ready" and said.get("available") is False:
        return "not available"
    return str(said.get("status", ""))


def status(options: Options, api: NodeApi) -> int:
    found = api.json("GET", "/v1/status")
    if options.json:
        show.document(found)
        return 0
    rows: list[tuple[str, object]] = [
        ("agent", found["agent_id"]),
        ("peer id", found["peer_id"]),
        ("cluster", found["cluster_id"]),
        ("version", found["version"]),
        ("role", found["role"]),
        ("state", found["state"]),
        ("up", f"{found['uptime_s']:.0f} s"),
        *(("" if at else "addresses", address) for at, address in enumerate(found["addresses"])),
        ("peers", f"{found['peers']}: {found['alone']}" if found["alone"] else found["peers"]),
        ("clocks", found.get("clocks")),
        ("tasks", _tasks_here(found.get("tasks") or {})),
        *_sandbox(found.get("sandbox") or {}),
    ]
    show.facts(rows)
    return 0


def _tasks_here(about: Document) -> str:
    words = []
    if "running_here" in about:
        words.append(f"{about['running_here']} of at most {about.get('maximum_here')} running here")
    if "unfinished" in about:
        words.append(f"{about['unfinished']} unfinished in all")
    return ", ".join(words)


def _sandbox(about: Document) -> list[tuple[str, object]]:
    backends: Document = about.get("backends") or {}
    usable = ", ".join(name for name, problem in backends.items() if problem is None)
    rows: list[tuple[str, object]] = [("sandbox", usable or ("usable" if about.get("usable") else "none is usable"))]
    rows += [("", f"not {name}: {problem}") for name, problem in backends.items() if problem is not None]
    if not backends and not about.get("usable"):
        rows.append(("", about.get("detail")))
    rows.append(("images", " ".join(about.get("images") or [])))
    rows.append(
        ("warm", ", ".join(f"{count} of {image}" for image, count in (about.get("warm") or {}).items() if count))
    )
    return rows


def openapi(options: Options, api: NodeApi) -> int:
    show.document(api.json("GET", "/openapi.json", open_path=True))
    return 0


def messages(options: Options, api: NodeApi) -> int:
    """Of this version of the software; no node is asked."""
    from chorus.client.messages import print_list, print_type

    if options.type is None:
        print_list(as_json=options.json)
    else:
        print_type(options.type, as_json=options.json)
    return 0


def token(options: Options, api: NodeApi) -> int:
    """Reads the data directory; the node need not run."""
    from chorus.services.cluster import load_token

    found = load_token(api.data_dir)
    here_only = all(address.is_loopback for address in found.addresses)
    if options.json:
        show.document(
            {
                "token": found.text(),
                "cluster_id": found.cluster_id.hex(),
                "peer_id": str(found.peer_id),
                "secret": found.secret.hex(),
                "addresses": [str(address) for address in found.addresses],
            }
        )
    elif options.raw:
        print(found.text())
    else:
        print(found.describe())
        other = "For another node on this machine" if here_only else "On the other machine"
        print(f"\n{other} (the token holds the cluster's secret):\n")
        print(f"  CHORUS_JOIN={found.text()} twistd chorus agent")
    if here_only:
        show.note(
            "the node listens for this machine alone, no other machine can join it with this token: set "
            "CHORUS_P2P_BIND (0.0.0.0: every interface), restart the node and ask again"
        )
    return 0
