"""Hostile tasks, on every kind of sandbox: each is contained, reported with its own reason, its sandbox is gone, and a
bystander (the agent itself, and another task on the same backend) goes on.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import LoopingCall

from chorus.sandbox.bubblewrap.backend import Bubblewrap
from chorus.sandbox.contract import RunResult
from chorus.sandbox.docker.backend import Docker
from chorus.sandbox.docker.engine import Engine
from chorus.sandbox.images import ImageMap
from chorus.sandbox.settings import SandboxSettings
from chorus.tasks.terms import Limits, Reason
from tests.integration.forks import servers
from tests.sandbox.support import IMAGE, Recorder, SandboxCase, no_bubblewrap, no_docker, python, shell

AGENT = f"agent-attacked-{os.getpid()}"

SECRET = "chorus-host-secret-8f2a"

TICKS = 3
"""Of a timer of the agent, while it is attacked: it goes on."""


def processes_with(text: str) -> list[str]:
    """Command lines on the host that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


class Attacks:
    """Mixed in below, once a backend."""

    backend: Any

    async def attack(self: Any, job: Any) -> tuple[RunResult, bytes, bytes]:
        """Run it beside a bystander and a timer of the agent."""
        ticks: list[int] = []
        timer = LoopingCall(lambda: ticks.append(len(ticks)))
        timer.start(0.1)
        bystander, scratch = self.go(
            shell("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done", task_id="bystander")
        )
        try:
            outcome = await self.outcome(job)
            await self.until(lambda: len(ticks) > TICKS)
        finally:
            timer.stop()
        result = await bystander.result
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), "the bystander's task went on")
        self.assertEqual((scratch / "stdout").read_bytes(), b"1\n2\n3\n4\n5\n6\n7\n8\n")
        self.assert_nothing_left()
        return outcome

    async def test_fork_bomb(self: Any) -> None:
        result, _, _ = await self.attack(
            python("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", limits={"pids": 40})
        )
        self.assertEqual(result.reason, Reason.PIDS)

    async def test_fork_bomb_of_the_shell(self: Any) -> None:
        result, _, _ = await self.attack(shell("b() { b | b & }; while :; do b; done", limits={"pids": 40}))
        self.assertEqual(result.reason, Reason.PIDS)

    async def test_memory_bomb(self: Any) -> None:
        code = "x = []\nwhile True: x.append(bytearray(16 << 20))"
        result, _, _ = await self.attack(python(code, limits={"memory_mb": 64}))
        self.assertEqual(result.reason, Reason.OOM)

    async def test_memory_bomb_in_tmp(self: Any) -> None:
        """tmpfs is memory: it is sized, and what is in it counts."""
        job = shell(
            "dd if=/dev/zero of=/tmp/x bs=1M; dd if=/dev/zero of=/dev/shm/x bs=1M; df -m /tmp /dev/shm",
            limits={"memory_mb": 64},
        )
        result, _, err = await self.attack(job)
        self.assertTrue(result.reason == Reason.OOM or b"No space left" in err, (result, err))

    async def test_disk_filler(self: Any) -> None:
        result, _, _ = await self.attack(shell("cat /dev/zero > a", limits={"disk_mb": 16}))
        self.assertEqual(result.reason, Reason.DISK)

    async def test_disk_filler_in_many_places(self: Any) -> None:
        """All writable folders share one limit; and no file, however many, escapes it."""
        script = "for d in /workspace/data /workspace/output ~; do cat /dev/zero > $d/x & done; wait; cat /dev/zero > y"
        result, _, _ = await self.attack(shell(script, limits={"disk_mb": 16}))
        self.assertEqual(result.reason, Reason.DISK)

    async def test_inode_filler(self: Any) -> None:
        code = "for i in range(10**7): open(f'f{i}', 'w').close()"
        result, _, _ = await self.attack(python(code, limits={"disk_mb": 8}))
        self.assertIn(result.reason, (Reason.DISK, Reason.TIMEOUT))
        if result.disk_enforcement == "loop":
            self.assertEqual(result.reason, Reason.DISK)

    async def test_sparse_file(self: Any) -> None:
        """Larger than the disk on paper: refused by the limit of a file's size."""
        result, _, _ = await self.attack(shell("truncate -s 1T big", limits={"disk_mb": 16}))
        self.assertNotEqual(result.exit_code, 0)

    async def test_endless_output(self: Any) -> None:
        result, out, _ = await self.attack(shell("yes", limits={"output_mb": 1}))
        self.assertEqual((result.reason, result.truncated, len(out)), (Reason.OUTPUT, ("stdout",), 1 << 20))

    async def test_endless_output_of_both_streams_from_many(self: Any) -> None:
        result, out, err = await self.attack(shell("yes & yes >&2 & yes & wait", limits={"output_mb": 1}))
        self.assertEqual(result.reason, Reason.OUTPUT)
        self.assertLessEqual(max(len(out), len(err)), 1 << 20)

    async def test_network(self: Any) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        code = (
            "import socket, sys\n"
            "for family, address in [\n"
            f"    (socket.AF_INET, ('127.0.0.1', {port})), (socket.AF_INET, ('1.1.1.1', 53)),\n"
            "    (socket.AF_INET6, ('::1', 22)), (socket.AF_INET, ('169.254.169.254', 80))]:\n"
            "    try:\n"
            "        s = socket.socket(family); s.settimeout(2); s.connect(address)\n"
            "    except OSError as e: print('refused', e)\n"
            "    else: print('CONNECTED', address)\n"
            "try: print('RESOLVED', socket.getaddrinfo('deb.debian.org', 80))\n"
            "except OSError as e: print('refused', e)\n"
            "try: socket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('RAW')\n"
            "except OSError as e: print('refused', e)\n"
        )
        result, out, _ = await self.attack(python(code))
        self.assertEqual((result.reason, out.count(b"refused [")), (Reason.EXIT, 6), out)
        self.assertNotIn(b"CONNECTED", out)

    async def test_abstract_sockets_of_the_host(self: Any) -> None:
        name = f"chorus-test-{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + name)
        listener.listen()
        self.addCleanup(listener.close)
        code = (
            f"import socket\ntry: socket.socket(socket.AF_UNIX).connect('\\0{name}')\n"
            "except OSError: print('refused')\nelse: print('CONNECTED')"
        )
        _, out, _ = await self.attack(python(code))
        self.assertEqual(out, b"refused\n")

    async def test_reading_the_host(self: Any) -> None:
        hidden = self.scratch() / "secret"
        hidden.write_text(SECRET)
        script = (
            f"cat {hidden} /etc/shadow /root/.bash_history /root/.ssh/id_rsa /proc/1/environ /proc/kcore 2>&1;"
            " cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; ls -la /root /home 2>&1;"
            " cat /dev/mem /dev/vda /dev/sda 2>&1;"
            f" ls /proc/{os.getpid()}/root 2>&1; grep -r {SECRET} / --include=secret -l 2>/dev/null; true"
        )
        os.environ["CHORUS_ATTACK_SECRET"] = SECRET
        self.addCleanup(os.environ.pop, "CHORUS_ATTACK_SECRET")
        # It looks at every file of the sandbox, which takes its time on a loaded machine.
        result, out, _ = await self.attack(shell(script, limits={"timeout_s": 80}))
        self.assertEqual(result.reason, Reason.EXIT)
        self.assertNotIn(SECRET.encode(), out)
        self.assertNotIn(b"root:$", out)

    async def test_writing_outside(self: Any) -> None:
        script = (
            "for p in / /usr /usr/bin /etc /bin /lib /var /run /run/chorus /opt /workspace /workspace/input"
            " /proc/sys/kernel /sys /dev; do if echo x > $p/chorus-attack 2>/dev/null; then echo WROTE $p; fi; done;"
            " echo x > /proc/sys/kernel/core_pattern 2>/dev/null && echo WROTE core_pattern;"
            " echo x > /proc/sysrq-trigger 2>/dev/null && echo WROTE sysrq;"
            " rm -rf /usr/bin/python3 2>/dev/null && echo REMOVED; true"
        )
        _, out, _ = await self.attack(shell(script))
        self.assertEqual(out, b"")
        self.assertEqual(
            [path for path in ("/", "/usr", "/etc", "/var", "/run") if "chorus-attack" in os.listdir(path)], []
        )

    async def test_escaping_through_links_in_the_output(self: Any) -> None:
        job = shell(
            "ln -s /etc/passwd /workspace/output/a; ln -s / /workspace/output/d; mkfifo /workspace/output/p",
            "mkdir /workspace/output/x && cd /workspace/output/x && ln -s ../../../../etc b",
            artifacts=("**",),
        )
        result, _, _ = await self.attack(job)
        self.assertEqual((result.reason, result.artifacts, result.entries), (Reason.EXIT, (), ()))
        self.assertEqual(len(result.artifacts_skipped), 4)

    async def test_surviving_the_time_limit(self: Any) -> None:
        """Own sessions, orphans, ignored signals: all of it dies with the sandbox."""
        mark = f"31{os.getpid()}"
        code = (
            "import os, signal, subprocess, time\n"
            "for name in ('TERM', 'HUP', 'INT', 'PIPE'): signal.signal(getattr(signal, 'SIG' + name), signal.SIG_IGN)\n"
            f"subprocess.Popen(['setsid', 'sleep', '{mark}'])\n"
            f"subprocess.Popen(['nohup', 'sh', '-c', 'trap \"\" TERM HUP; while :; do sleep {mark}; done'])\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0:\n"
            f"        os.execvp('sleep', ['sleep', '{mark}'])\n"
            "    os._exit(0)\n"
            "print('begun', flush=True)\n"
            "while True: time.sleep(1)\n"
        )
        result, out, _ = await self.attack(python(code, limits={"timeout_s": 2}))
        self.assertEqual((result.reason, out), (Reason.TIMEOUT, b"begun\n"))
        await self.until(lambda: not processes_with(mark))

    async def test_surviving_the_end(self: Any) -> None:
        """The same without a time limit: what the commands leave behind must not hold up the result."""
        mark = f"32{os.getpid()}"
        script = f"setsid sh -c 'trap \"\" TERM; sleep {mark}' & (sleep {mark} &) ; nohup sleep {mark} & echo over"
        result, out, _ = await self.attack(shell(script))
        self.assertEqual((result.reason, result.exit_code, out), (Reason.EXIT, 0, b"over\n"))
        await self.until(lambda: not processes_with(mark))

    async def test_surviving_cancel(self: Any) -> None:
        mark = f"33{os.getpid()}"
        script = f"trap '' TERM; setsid sleep {mark} & echo begun; sleep {mark}"
        run, scratch = self.go(shell(script), seen := Recorder())
        await seen.seen("stdout", b"begun")
        run.cancel(Reason.LEASE_LOST)
        self.assertEqual((await run.result).reason, Reason.LEASE_LOST)
        self.assert_clean(scratch)
        await self.until(lambda: not processes_with(mark))
        self.assert_nothing_left()

    async def test_stopping_its_own_watchers(self: Any) -> None:
        """Signals to everything it can see, SIGSTOP to itself: the time limit holds."""
        script = "kill -STOP -1; kill -9 1 2>/dev/null; kill -STOP $$; sleep 30"
        result, _, _ = await self.attack(shell(script, limits={"timeout_s": 1}))
        self.assertIn(result.reason, (Reason.TIMEOUT, Reason.EXIT))
        self.assertNotEqual(result.exit_code, 0)

    async def test_privileges(self: Any) -> None:
        code = (
            "import ctypes, errno, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "def attempt(name, value):\n"
            "    why = errno.errorcode.get(ctypes.get_errno(), '?')\n"
            "    print(name, 'GOT THROUGH' if value == 0 else 'refused ' + why)\n"
            "attempt('setuid', libc.setresuid(0, 0, 0))\n"
            "attempt('mount', libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))\n"
            "attempt('umount', libc.umount2(b'/proc', 2))\n"
            "attempt('unshare', libc.unshare(0x10000000 | 0x00020000))\n"
            "attempt('chroot', libc.chroot(b'/tmp'))\n"
            "attempt('mknod', libc.mknod(b'/tmp/sda', 0o60666, 0x800))\n"
            "attempt('sethostname', libc.sethostname(b'x', 1))\n"
            "attempt('bpf', 0 if libc.syscall(321, 0, 0, 0) >= 0 else -1)\n"
            "attempt('keyctl', 0 if libc.syscall(250, 0, 0xfffffffd, 1) >= 0 else -1)\n"
            "attempt('reboot', libc.reboot(0))\n"
            "attempt('settimeofday', libc.settimeofday(ctypes.create_string_buffer(16), None))\n"
            f"attempt('ptrace', libc.ptrace(16, {os.getpid()}, 0, 0))\n"
            "attempt('nice', 0 if libc.setpriority(0, 0, -10) == 0 else -1)\n"
            "attempt('chown', libc.chown(b'/workspace/data', 0, 0))\n"
        )  # fmt: skip
        result, out, _ = await self.attack(python(code))
        self.assertEqual(result.reason, Reason.EXIT)
        self.assertNotIn(b"GOT THROUGH", out)
        self.assertEqual(out.count(b"refused"), 14, out)

    async def test_set_user_id_programs(self: Any) -> None:
        script = (
            "cp /bin/sh ./suid && chmod 6755 ./suid; ./suid -p -c 'id -u';"
            " for p in /usr/bin/su /usr/bin/passwd /usr/bin/mount /usr/bin/newgrp; do [ -u $p ] && echo $p; done;"
            " su -c id 2>&1 </dev/null; grep NoNewPrivs /proc/self/status"
        )
        _, out, _ = await self.attack(shell(script))
        self.assertNotEqual(out.split()[0], b"0")
        self.assertIn(b"NoNewPrivs:\t1", out)
        self.assertNotIn(b"uid=0", out)

    async def test_proc_tricks(self: Any) -> None:
        script = (
            "for p in $(ls /proc | grep -E '^[0-9]+$'); do"
            "   echo -1000 > /proc/$p/oom_score_adj 2>/dev/null && echo WROTE oom_score_adj;"
            "   echo 0::/ > /proc/$p/cgroup 2>/dev/null && echo WROTE cgroup; done;"
            " for f in /sys/fs/cgroup/*/release_agent; do (echo /tmp/x > $f) 2>/dev/null && echo WROTE $f; done;"
            " mkdir /sys/fs/cgroup/x /sys/fs/cgroup/*/x 2>/dev/null && echo MADE cgroup;"
            " echo '|/tmp/x' > /proc/sys/kernel/core_pattern 2>/dev/null && echo WROTE core_pattern;"
            " cat /proc/keys /proc/timer_list 2>/dev/null | head -c 100;"
            " ls /proc/1/root/ >/dev/null 2>&1 && ls /proc/1/root/root 2>/dev/null; true"
        )
        _, out, _ = await self.attack(shell(script))
        self.assertNotIn(b"WROTE", out)
        self.assertNotIn(b"MADE", out)

    async def test_the_engine_s_socket(self: Any) -> None:
        script = (
            "find / -xdev -name 'docker.sock' 2>/dev/null; find / -name '*.sock' -path '*docker*' 2>/dev/null; true"
        )
        _, out, _ = await self.attack(shell(script))
        self.assertEqual(out, b"")

    async def test_hidden_processes_of_the_agent(self: Any) -> None:
        code = (
            "import os\n"
            "pids = [int(p) for p in os.listdir('/proc') if p.isdigit()]\n"
            "print(len(pids), max(pids))\n"
            f"try: os.kill({os.getpid()}, 0); print('SEEN')\n"
            "except ProcessLookupError: print('unseen')\n"
            "except PermissionError: print('SEEN')\n"
        )
        _, out, _ = await self.attack(python(code))
        self.assertIn(b"unseen", out)
        self.assertLess(int(out.split()[0]), 20)


class BubblewrapAttacks(Attacks, SandboxCase):
    timeout = 240
    skip = no_bubblewrap()

    def setUp(self) -> None:
        self.backend = Bubblewrap(reactor, AGENT)  # type: ignore[arg-type]
        self.addCleanup(self.backend.close)

    def assert_nothing_left(self) -> None:
        children = [Path(f"/proc/self/task/{thread}/children").read_text() for thread in os.listdir("/proc/self/task")]
        self.assertEqual({int(child) for text in children for child in text.split()} - servers(), set())
        self.assertEqual(list(self.backend.runs), [])


class DockerAttacks(Attacks, SandboxCase):
    timeout = 240
    skip = no_docker()

    def setUp(self) -> None:
        host = os.environ.get("CHORUS_TEST_DOCKER_HOST", "")
        self.engine = Engine(host)
        self.backend = Docker(
            reactor,  # type: ignore[arg-type]
            AGENT,
            state=self.scratch(),
            settings=SandboxSettings(
                docker_host=host,
                images=ImageMap({"base": IMAGE}),
                defaults=Limits(disk_mb=64, memory_mb=256, pids=64),
            ),
        )
        self.addCleanup(self.backend.close)

    def assert_nothing_left(self) -> None:
        self.assertEqual(self.engine.labelled("chorus.agent", AGENT), [])

    async def test_killing_the_pump(self) -> None:
        """What keeps the output is another user's process: it can neither be stopped nor be written past."""
        if os.geteuid():
            raise self.skipTest("only a root agent can give the pump a user of its own")
        script = (
            "echo before; for p in $(ls /proc | grep -E '^[0-9]+$'); do [ $p = $$ ] || kill -9 $p 2>/dev/null; done;"
            " rm -f /run/chorus-io/stdout /run/chorus/out/* 2>/dev/null;"
            " echo forged > /run/chorus/out/stdout; echo after"
        )
        _, out, _ = await self.attack(shell(script))
        self.assertEqual(out.split()[0], b"before")
        self.assertNotIn(b"forged", out)

    async def test_the_first_process_killed_from_outside(self) -> None:
        run, scratch = self.go(shell("echo begun; sleep 60"), seen := Recorder())
        await seen.seen("stdout", b"begun")
        (entry,) = self.engine.labelled("chorus.agent", AGENT)
        os.kill(self.engine.inspect(entry["Id"])["State"]["Pid"], signal.SIGKILL)
        result = await run.result
        self.assertEqual((result.reason, result.exit_code, result.stdout_bytes), (Reason.EXIT, 137, 6))
        self.assert_clean(scratch)
