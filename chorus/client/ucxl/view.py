"""Decisions for a person."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.client import show
from chorus.client.task_options import Document
from chorus.ucxl.address import exact
from chorus.ucxl.chain import ChainReport
from chorus.ucxl.record import Decision


def decision(record: Decision) -> None:
    run, outcome = record.run, record.outcome
    result = "success" if outcome.success else "failure"
    if outcome.reason or outcome.exit_code is not None:
        result += f" ({outcome.reason or 'exit'}" + (f" {outcome.exit_code})" if outcome.exit_code is not None else ")")
    rows: list[tuple[str, object]] = [
        ("address", record.address),
        ("version", f"{record.seq}  ={record.content_hash}"),
        ("before it", record.prev and f"={record.prev}"),
        ("kind", record.kind),
        ("made", show.moment(record.created)),
        ("author", record.peer_id),
        ("role", record.role),
        ("summary", record.summary),
        ("rationale", record.rationale),
        ("confidence", f"{record.confidence / 10:g} %"),
        ("outcome", result),
        ("supersedes", record.supersedes),
    ]
    if run is not None:
        rows += [(show.COMMAND[0] if at == 0 else show.COMMAND[1], each) for at, each in enumerate(run.commands)]
        rows += [("took", f"{run.ended - run.started} s"), ("sandbox", run.sandbox), ("image", run.image)]
        if run.limits is not None:
            limits = run.limits
            words = (
                f"{limits.cpu:g} cores, {limits.memory_mb} MiB memory, {limits.disk_mb} MiB disk, {limits.pids} pids"
            )
            rows.append(("limits", f"{words}, {limits.timeout_s:g} s"))
    rows += _listed("input", [f"{each.name} {each.sha256 or each.uri or ''}".strip() for each in record.inputs])
    rows += _listed("alternative", record.alternatives)
    rows += _listed("modified", record.modified_files)
    rows += _listed("artifact", [f"{each.sha256}  {show.size(each.size)}  {each.name}" for each in record.artifacts])
    show.facts(rows)


def _listed(name: str, items: Sequence[str]) -> list[tuple[str, object]]:
    return [(name if at == 0 else " ", item) for at, item in enumerate(items)]


def history(found: Document) -> None:
    rows = [
        (each["seq"], show.moment(each["time"]), f"={each['content']}", _summary(each["record"]))
        for each in found["versions"]
    ]
    show.table(("version", "made", "hash", "summary"), rows, "no versions", folds=True)
    heads = {(head["seq"], head["content"]) for head in found["heads"]}
    if len(heads) > len({seq for seq, _ in heads}):
        show.note("its author signed different contents for one number: `chorus ucxl verify` shows both")
    if found.get("missing") is not None:
        show.note(f"an older one, ={found['missing']}, cannot be had now")
    oldest = found["versions"][-1] if found["versions"] else None
    if found["next"] is None and oldest is not None and oldest["record"] is None and oldest["seq"] > 1:
        show.note(f"version {oldest['seq']} is not readable here, and so what is before it cannot be followed")
    if found["next"] is not None:
        show.note("there are older ones: say a larger --limit")


def _summary(record: Document | None) -> str:
    return "(not readable here)" if record is None else str(record["summary"])


def matches(decisions: Sequence[Document]) -> None:
    rows = [
        (
            show.moment(each["time"]),
            each["kind"],
            each["summary"] or "(not readable here)",
            exact(each["address"], each["content"]),
        )
        for each in decisions
    ]
    show.table(("made", "kind", "summary", "address"), rows, "no decisions", spare=("kind",))


def report(found: ChainReport) -> None:
    for fault in found.faults:
        print(show.safe(f"{fault.code} at version {fault.seq}: {fault.text}"))
        for content in fault.contents:
            print(show.safe(f"  ={content}"))
    if found.clean:
        versions = show.counted(found.verified + found.unread, "version")
        if found.unread:
            print(
                f"clean as far as it is readable here: {versions}, {found.verified} verified, not readable here from "
                f"version {found.unread_from} on: {found.unread} (their author verified)"
            )
        else:
            print(f"clean: {versions}, {found.verified} verified")
    elif found.faults:
        print(f"false: {show.counted(len(found.faults), 'fault')} up to version {found.latest}")
    else:
        print("nothing to verify")
