"""A libvirtd of our own, walled off by namespaces, and the guests it runs.

The daemon sees private directories bound over ``/etc/libvirt``, ``/var/lib/libvirt``
and the like, so the system's own configuration, domains and sockets stay untouched;
its processes are in a PID namespace, so all of them die with the test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from interop.qemu import HostBlock, hash_blocks, parse_ramblocks, wait_for

# An ordinary user's PATH may lack the place of daemons.
LIBVIRTD = shutil.which("libvirtd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
"""
LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
"""
# Places as the daemon and its guests name them -> folders of the private root.
PLACES = {
    "/etc/libvirt": "etc",
    "/var/lib/libvirt": "lib",
    "/var/log/libvirt": "log",
    "/var/cache/libvirt": "cache",
    "/run/libvirt": "run",
}


class VirshError(RuntimeError):
    """A virsh command failed; the text is its complaint."""


def namespace_command() -> list[str]:
    """Return the words that, for root, run a command in private namespaces."""
    # Killing unshare takes down the first process of the PID namespace, and so all.
    tied = ("setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child")
    return [*tied, "--mount", "--pid", "--net", "--ipc", "--mount-proc"]


_ENDED = ("", "shut off")


class Libvirt:
    """One private libvirtd; `root` holds what it takes for ``/var/lib/libvirt`` and so on.

    Parameters
    ----------
    settings : iterable of str
        More lines for qemu.conf.
    """

    def __init__(self, settings: Iterable[str] = ()) -> None:
        # Not in pytest's folder: the path of the socket in it must stay short.
        self.root = Path(tempfile.mkdtemp(prefix="savefmt-libvirt-"))
        self.uri = f"qemu+unix:///system?socket={self.root}/run/libvirt-sock"
        self._log = self.root / "libvirtd.out"
        self._process: subprocess.Popen[bytes] | None = None
        for name in PLACES.values():
            (self.root / name).mkdir()
        for name in ("images", "console", "qemu"):
            (self.root / "lib" / name).mkdir()
        (self.root / "etc/qemu.conf").write_text(QEMU_CONF + "".join(f"{s}\n" for s in settings))
        (self.root / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        steps = ["set -e"]
        for place, name in PLACES.items():
            steps.append(
                f"mkdir -p {place}; mount --bind {shlex.quote(str(self.root / name))} {place}"
            )
        # The shell stays the namespace's init: someone must reap the guests, or
        # libvirtd takes the zombies for guests that refuse to die.
        steps.append(
            f"{LIBVIRTD} -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid & wait"
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*namespace_command(), "sh", "-c", "\n".join(steps)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, "answer from libvirtd", timeout=30, step=0.1)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise VirshError(f"libvirtd died: {self._log.read_text(errors='replace')}")
        command = ["virsh", "-q", "-c", self.uri, "list"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the daemon and its guests, and remove the private root."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self.root, ignore_errors=True)

    def virsh(self, *words: str | Path) -> str:
        """Run one virsh command and return what it printed."""
        command = ["virsh", "-q", "-c", self.uri, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise VirshError(f"virsh {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def path(self, place: str) -> Path:
        """Where the file that a guest's XML calls `place` really is."""
        for prefix, name in PLACES.items():
            if place.startswith(prefix + "/"):
                return self.root / name / place[len(prefix) + 1 :]
        raise ValueError(f"{place} is not in a private place")

    # Domains

    def start(self, xml: str) -> None:
        """Define a domain and start it."""
        file = self.root / "domain.xml"
        file.write_text(xml)
        self.virsh("define", file)
        self.virsh("start", re.search(r"<name>(.*?)</name>", xml)[1])  # type: ignore[index]

    def save(self, domain: str, image: Path, format: str, *options: str) -> None:
        """Save a domain, which ends it, into `image`."""
        self.virsh("save", domain, image, "--image-format", format, *options)

    def snapshot(self, domain: str, image: Path) -> None:
        """Take a live external snapshot of the memory, the guest running on."""
        words = ["snapshot-create-as", domain, "--live", "--no-metadata"]
        words += ["--memspec", f"file={image},snapshot=external"]
        for last in (False, False, False, True):
            try:
                self.virsh(*words)
                return
            except VirshError as error:
                # On a busy host libvirt wakes the guest before QEMU 10 is ready for
                # that, and leaves it paused.
                if last or "not finalized yet" not in str(error):
                    raise
            image.unlink(missing_ok=True)
            self.virsh("resume", domain)

    def restore(self, image: Path, *options: str) -> None:
        """Restore a domain from `image`."""
        self.virsh("restore", image, *options)

    def destroy(self, domain: str) -> None:
        """End a domain if it is there and runs."""
        try:
            if self.state(domain) not in _ENDED:
                self.virsh("destroy", domain)
        except VirshError:
            if self.state(domain) not in _ENDED:  # else it came to its end by itself meanwhile
                raise

    def state(self, domain: str) -> str:
        """Return the state in virsh's words, empty for an unknown domain."""
        try:
            return self.virsh("domstate", domain).strip()
        except VirshError:
            return ""

    def hmp(self, domain: str, line: str) -> str:
        """Run a command of the human monitor of the domain's QEMU."""
        return self.virsh("qemu-monitor-command", domain, "--hmp", line)

    def qmp(self, domain: str, command: str, **arguments: Any) -> Any:
        """Run a QMP command in the domain's QEMU."""
        request = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(self.virsh("qemu-monitor-command", domain, request))["return"]

    # Evidence

    def pid(self, domain: str) -> int:
        """Process id, out here, of the domain's QEMU."""
        assert self._process is not None
        ours = os.readlink(f"/proc/{self._process.pid}/ns/pid_for_children")
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                named = any(word.startswith(f"guest={domain},".encode()) for word in words)
                if named and os.readlink(entry / "ns/pid") == ours:
                    return int(entry.name)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        raise ProcessLookupError(f"no QEMU for {domain}")

    def ram_blocks(self, domain: str) -> list[HostBlock]:
        """Every RAMBlock of the domain's QEMU."""
        return parse_ramblocks(self.hmp(domain, "info ramblock"))

    def block_hashes(self, domain: str) -> dict[str, str]:
        """Hash every RAMBlock in QEMU's own memory; the domain should be paused."""
        return hash_blocks(self.pid(domain), self.ram_blocks(domain))
