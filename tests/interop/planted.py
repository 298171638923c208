"""A Linux guest with processes, sockets, files and containers that are known."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from interop.qemu import EMULATOR, Guest

BUSYBOX = Path("/usr/bin/busybox")
SOURCE = Path(__file__).with_name("plant.c")
APPEND = "console=ttyS0 loglevel=3 tsc=unstable savefmt.canary=1"
HOST = "canary-host"
KERNEL_LOG = "savefmt: canary 7c1f in the kernel log"
SECRET = "canary-4e20"
READY = "all canaries sing"
LATER = "one more canary came"
EVIL_LENGTH = 1_234_567
LATE_LENGTH = 409_600
KERNELS = Path("/var/lib/savefmt-kernels")
"""Where tools/install-kernels puts them."""
MEMORY = "256M"
BOOT_TIMEOUT = 150.0

_INIT = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=1777 scratch /tmp
mount -t cgroup2 group /sys/fs/cgroup
exec </dev/CONSOLE >/dev/CONSOLE 2>&1
stty -echo -onlcr -opost
hostname {HOST}
echo "{KERNEL_LOG}" >/dev/kmsg
for module in /modules/*.ko; do insmod $module; done
ip link set lo up
ip addr add 10.9.8.7/24 dev dummy0
ip link set dummy0 up
head -c {EVIL_LENGTH} /dev/urandom >/tmp/evil
head -c 5000 /dev/urandom >/tmp/holes
truncate -s 100000 /tmp/holes
head -c 3000 /dev/urandom | dd of=/tmp/holes bs=1 seek=81920 conv=notrunc 2>/dev/null
truncate -s 8M /tmp/disk
mkdosfs /tmp/disk >/dev/null 2>&1; mke2fs -F /tmp/disk >/dev/null 2>&1
mknod /dev/loop0 b 7 0 2>/dev/null
mkdir -p /disk
losetup /dev/loop0 /tmp/disk
if mount -t ext4 /dev/loop0 /disk || mount -t ext2 /dev/loop0 /disk; then
    head -c 2000000 /dev/urandom >/disk/audit.log
    sync
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/disk/audit.log of=/dev/null bs=4096 skip=200 count=1 2>/dev/null
fi
/plant server &
while [ ! -e /run/server.bound ]; do usleep 50000; done
/plant client &
SAVEFMT_SECRET={SECRET} /plant lurker "with a space" &
mkdir /sys/fs/cgroup/box
unshare -p -f -m -u -n -i sh -c 'hostname box; mount -t tmpfs inner /mnt; sleep 1234; true' &
while ! pidof sleep >/dev/null; do usleep 50000; done
for pid in $(pidof sleep); do echo $pid >/sys/fs/cgroup/box/cgroup.procs; done
while [ ! -e /run/server.ready ] || [ ! -e /run/client.ready ]; do usleep 50000; done
sleep 1
echo "BEGIN"
/plant report
echo "ADDRESSES"
ip addr
echo "DIGESTS"
sha256sum /tmp/evil /tmp/holes /bin/busybox /plant
echo "SYMBOLS"
awk 'NF == 3 && NR % 50 == 0' /proc/kallsyms
echo "CLOCK $(date +%s)"
echo "LOG"
dmesg
echo "{READY}"
sleep 1
head -c {LATE_LENGTH} /dev/urandom >/tmp/late
echo "{LATER}"
while :; do sleep 1000; done
"""


def compile_plant(target: Path, compiler: str = "cc") -> None:
    """Build the program that plays the roles."""
    subprocess.run(
        [compiler, "-std=gnu11", "-O1", "-static", "-o", str(target), str(SOURCE)], check=True
    )


def build_initramfs(
    target: Path,
    modules: list[Path],
    *,
    busybox: Path = BUSYBOX,
    compiler: str = "cc",
    console: str = "ttyS0",
) -> None:
    """Write the guest's root file system.

    Parameters
    ----------
    target : Path
        The archive to make.
    modules : list of Path
        Kernel modules to load, in this order; compressed ones are unpacked.
    busybox, compiler : Path and str
        Of the guest's architecture.
    console : str
        The guest's serial line.
    """
    tree = target.with_suffix(".tree")
    for name in ("bin", "dev", "proc", "sys", "tmp", "run", "mnt", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    compile_plant(tree / "plant", compiler)
    for number, module in enumerate(modules):
        data = module.read_bytes()
        if module.suffix == ".xz":
            data = subprocess.run(["xz", "-dc"], input=data, stdout=-1, check=True).stdout
        name = module.name.removesuffix(".xz")
        (tree / "modules" / f"{number}-{name}").write_bytes(data)
    (tree / "init").write_text(_INIT.replace("CONSOLE", console))
    for name in ("bin/busybox", "plant", "init"):
        (tree / name).chmod(0o755)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    done = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
        input="\n".join(names).encode(),
        cwd=tree,
        capture_output=True,
        check=True,
    )
    shutil.rmtree(tree)
    target.write_bytes(done.stdout)


class Report:
    """What the guest said of itself.

    Parameters
    ----------
    console : bytes
        All that it wrote on its serial line.
    """

    def __init__(self, console: bytes) -> None:
        console = console[console.index(b"BEGIN\n") + 6 :]
        self.files: dict[str, bytes] = {}
        while match := re.match(rb"@@ (\S+) (\d+)\n", console):
            start, length = match.end(), int(match[2])
            self.files[match[1].decode()] = console[start : start + length]
            console = console[start + length + 1 :]
        rest = console.decode(errors="replace")
        self.addresses = rest[rest.index("ADDRESSES") : rest.index("DIGESTS")]
        self.digests = {
            line.split()[1]: line.split()[0] for line in re.findall(r"^\w{64}  \S+$", rest, re.M)
        }
        symbols = rest[rest.index("SYMBOLS") : rest.index("CLOCK")].splitlines()[1:]
        self.symbols = [(int(words[0], 16), words[2]) for words in map(str.split, symbols)]
        self.clock = int(re.findall(r"^CLOCK (\d+)", rest, re.M)[0])
        self.log = rest[rest.index("LOG\n") + 4 : rest.index(READY)].splitlines()

    def text(self, path: str) -> str:
        """Return what a file of ``/proc`` held."""
        return self.files[path].decode()

    def status(self, pid: int) -> dict[str, str]:
        """Return ``/proc/PID/status``."""
        lines = self.text(f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def pids(self) -> list[int]:
        """Return the processes that were there, less the one that reported."""
        found = {int(m[1]) for m in (re.match(r"/proc/(\d+)/stat$", p) for p in self.files) if m}
        gone = {pid for pid in found if "(plant) R" in self.text(f"/proc/{pid}/stat")}
        return sorted(found - gone)


def lack_of_kernel(name: str) -> str:
    """Say why a guest with this kernel cannot be made, or nothing."""
    if not (KERNELS / name / "vmlinuz").exists():
        return f"no kernel at {KERNELS / name}; tools/install-kernels {name} gets it on Debian"
    needed = ["cpio", "xz", "aarch64-linux-gnu-gcc" if name == "arm64" else "cc"]
    missing = [program for program in needed if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)}"
    return "" if BUSYBOX.exists() else f"no static busybox at {BUSYBOX}"


def boot(
    name: str | Path, directory: Path, *, vmcoreinfo: bool = True, processor: str = "qemu64"
) -> Guest:
    """Start a guest, let it print its report, and stop it.

    Parameters
    ----------
    name : str or Path
        The kernel, as tools/install-kernels calls it, or a folder with another one.
    directory : Path
        For its files.
    vmcoreinfo : bool
        Whether it has the device that a kernel tells of itself.
    processor : str
        Of a guest of x86.

    Returns
    -------
    Guest
        Paused; its console is the report.
    """
    home, arm = KERNELS / name, name == "arm64"
    modules = [path for kind in ("dummy", "loop") for path in home.glob(f"modules/{kind}.ko*")]
    archive = directory / "initramfs.cpio"
    if arm:
        compiler, busybox, console = "aarch64-linux-gnu-gcc", home / "busybox", "ttyAMA0"
        machine = ["-machine", "virt", "-cpu", "cortex-a57"]
    else:
        compiler, busybox, console = "cc", BUSYBOX, "ttyS0"
        machine = ["-machine", "pc-q35-10.0", "-cpu", processor]
        machine += ["-device", "vmcoreinfo"] if vmcoreinfo else []
    build_initramfs(archive, modules, busybox=busybox, compiler=compiler, console=console)
    arguments = [
        *(*machine, "-smp", "2", "-m", MEMORY),
        *("-kernel", str(home / "vmlinuz"), "-initrd", str(archive)),
        *("-append", APPEND.replace("ttyS0", console)),
    ]
    program = "qemu-system-aarch64" if arm else EMULATOR
    guest = Guest(directory, arguments, program=program, keyboard=False)
    try:
        guest.cont()
        guest.wait_console(READY, BOOT_TIMEOUT)
        guest.stop()
    except BaseException:
        guest.kill()
        raise
    return guest
