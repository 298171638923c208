"""Make the golden images anew: ``python tests/golden/make.py OUTDIR``.

Needs QEMU >= 10.0, libvirt >= 11.2, GNU as, objcopy and tar, and root for
the private libvirtd.  The results differ from run to run in
timers and the like, so a new set comes with its own ``MANIFEST.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from interop.libvirt import Libvirt  # noqa: E402
from interop.qemu import Guest, wait_for  # noqa: E402

from golden.domains import DOMAIN, RICH_DOMAIN, boot_sector  # noqa: E402

Blocks = dict[str, dict[str, Any]]

MIB = 1 << 20
UUID = "00112233-4455-6677-8899-aabbccddeeff"
MAPPED = {"mapped-ram": True}
MULTIFD = {"mapped-ram": True, "multifd": True}
BACKGROUND = {"background-snapshot": True}
CODECS = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
# What loads the images of `DOMAIN` without libvirt.
LIBVIRT_GUEST = {
    "machine": "pc-q35-10.0",
    "vcpus": 1,
    "firmware": "libvirt",
    "arguments": ["-machine", "pc-q35-10.0", "-m", "16M", "-bios", "{firmware}"],
}


@dataclass(frozen=True)
class Recipe:
    """A bare stream: the guest, how it is saved, and facts that a reader should find.

    `twin` saves the very same guest once more under another name, with these
    capabilities.  `before` runs once the guest stands still, `facts` go into the
    manifest as they are.
    """

    machine: str
    arguments: tuple[str, ...] = ()
    firmware: str = "halt"
    memory: int = 8
    hotplug: str = ""
    vcpus: int = 1
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    live: bool = False
    twin: str = ""
    twin_capabilities: Mapping[str, bool] = field(default_factory=lambda: MAPPED)
    twin_parameters: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[Guest, Path], None] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def fill_virtio_mem(guest: Guest, scratch: Path) -> None:
    """Write to the plugged pieces from behind, their memory being a file."""
    (state,) = guest.qmp("query-memory-devices")
    assert state["data"]["size"] == len(PLUGGED) * 2 * MIB
    with (scratch / "virtio-mem").open("r+b") as file:
        for piece in PLUGGED:
            for page in (0, 7, 511):
                file.seek(piece * 2 * MIB + page * 4096)
                file.write(f"page {page} of piece {piece}".encode().ljust(4096, b"."))


def dirty_bitmaps(guest: Guest, scratch: Path) -> None:
    """Give the disk one bitmap in use, one out of use and one still empty."""
    for name, granularity in (("used", 65536), ("frozen", 4096), ("empty", 65536)):
        guest.qmp("block-dirty-bitmap-add", node="n0", name=name, granularity=granularity)
        if name == "frozen":
            guest.hmp('qemu-io n0 "write 64k 8k"')
            guest.qmp("block-dirty-bitmap-disable", node="n0", name=name)
        elif name == "used":
            guest.hmp('qemu-io n0 "write 256k 192k"')
    (node,) = guest.qmp("query-named-block-nodes")
    counts = {bitmap["name"]: bitmap["count"] for bitmap in node["dirty-bitmaps"]}
    assert counts == {"used": 262144, "frozen": 8192, "empty": 0}, counts


PLUGGED = (1, 3, 4)  # as firmware.S asks for
SLOTS = ",slots=2,maxmem=64M"
DIMM = (
    *("-object", "memory-backend-file,id=memdimm0,size=4M,mem-path={scratch}/dimm,share=on"),
    *("-device", "pc-dimm,id=dimm0,memdev=memdimm0"),
)
VIRTIO_MEM = (
    *("-object", "memory-backend-file,id=memvm0,size=16M,mem-path={scratch}/virtio-mem,share=on"),
    *("-device", "virtio-mem-pci,id=vm0,memdev=memvm0,block-size=2M,requested-size=8M,addr=0x10"),
)
DISK = (
    *("-blockdev", "null-co,node-name=n0,size=1048576,read-zeroes=on"),
    *("-device", "virtio-blk-pci,drive=n0,id=disk0,share-rw=on"),
)
SHARED = (*("-object", "memory-backend-file,id=pc.ram,size=8M,mem-path={scratch}/shared,share=on"),)

STREAMS = {
    "i440fx": Recipe("pc-i440fx-10.0", twin="i440fx-mapped"),
    "q35-smp": Recipe(
        *("pc-q35-10.0", ("-cpu", "Haswell-noTSX")),
        vcpus=3,
        twin="q35-smp-mapped",
        twin_capabilities=MULTIFD,
        twin_parameters={"multifd-channels": 2},
    ),
    "q35-9.2": Recipe("pc-q35-9.2", twin="q35-9.2-mapped", facts={"switchover": False}),
    "dimm": Recipe("pc-q35-10.0", DIMM, hotplug=SLOTS, twin="dimm-mapped"),
    "virtio-mem": Recipe(
        *("pc-q35-10.0", VIRTIO_MEM, "virtio-mem"),
        hotplug=SLOTS,
        before=fill_virtio_mem,
        twin="virtio-mem-mapped",
        facts={"plugged": {"memvm0": list(PLUGGED)}},
    ),
    "virtio-mem-unplugged": Recipe(
        *("pc-q35-10.0", VIRTIO_MEM),
        hotplug=SLOTS,
        twin="virtio-mem-unplugged-mapped",
        facts={"plugged": {"memvm0": []}},
    ),
    "dirty-bitmaps": Recipe(
        *("pc-q35-10.0", DISK),
        capabilities={"dirty-bitmaps": True},
        before=dirty_bitmaps,
        twin="dirty-bitmaps-mapped",
        twin_capabilities={"dirty-bitmaps": True, **MAPPED},
    ),
    "validate-uuid": Recipe(
        *("pc-q35-10.0", ("-uuid", UUID)),
        capabilities={"validate-uuid": True},
        twin="validate-uuid-mapped",
        twin_capabilities={"validate-uuid": True, **MAPPED},
        facts={"uuid": UUID},
    ),
    "no-description": Recipe(
        "pc-q35-10.0,suppress-vmdesc=on", twin="no-description-mapped", facts={"description": False}
    ),
    "no-configuration": Recipe(
        *("pc-q35-10.0,suppress-vmdesc=on", ("-global", "migration.send-configuration=off")),
        facts={"configuration": False, "description": False},
    ),
    "no-footers": Recipe(
        *("pc-q35-10.0", ("-global", "migration.send-section-footer=off")),
        facts={"footers": False},
    ),
    "ignore-shared": Recipe(
        *("pc-q35-10.0,memory-backend=pc.ram", SHARED),
        capabilities={"x-ignore-shared": True},
        facts={"ignored": ["pc.ram"]},
    ),
    "dense-mapped": Recipe(
        "pc-q35-10.0",
        capabilities=MAPPED,
        parameters={"zero-page-detection": "none"},
        facts={"dense": True},
    ),
    "microvm": Recipe("microvm", twin="microvm-mapped"),
    "background": Recipe(
        "pc-q35-10.0", live=True, capabilities=BACKGROUND, facts={"ram_end": False}
    ),
    "background-mapped": Recipe(
        "pc-q35-10.0",
        live=True,
        capabilities={**BACKGROUND, **MAPPED},
        facts={"ram_end": False, "ram_lost": True},
    ),
    "live": Recipe("pc-q35-10.0", live=True),
    "live-xbzrle": Recipe(
        "pc-q35-10.0",
        live=True,
        capabilities={"xbzrle": True},
        parameters={"xbzrle-cache-size": 4 * MIB},
        facts={"xbzrle": True},
    ),
    "live-mapped": Recipe("pc-q35-10.0", live=True, capabilities=MAPPED, facts={"stale": True}),
    "live-multifd": Recipe(
        "pc-q35-10.0",
        live=True,
        capabilities=MULTIFD,
        parameters={"multifd-channels": 2},
        facts={"stale": True},
    ),
}


class EarlyEnd(Exception):
    """A live save found no dirty page for a moment, and so ended before its time."""


class Maker:
    """Collects images in `out`; `scratch` is for what need not be kept."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self.out = out
        self.scratch = scratch
        self.manifest: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)

    def firmware(self, kind: str, memory: int = 8) -> Path:
        """Assemble the firmware; see `Recipe.firmware`, and ``libvirt`` for its guests."""
        target = self.scratch / f"firmware-{kind}.bin"
        if not target.exists():
            object_file = target.with_suffix(".o")
            symbols = {
                "LAST": memory * MIB - 4096,
                "LIVE": int(kind == "live"),
                "VIRTIO_MEM": int(kind == "virtio-mem"),
            }
            defines = [f"--defsym={name}={value}" for name, value in symbols.items()]
            source = HERE / "firmware.S"
            subprocess.run(["as", "--32", *defines, "-o", object_file, source], check=True)
            extract = ["objcopy", "-O", "binary", "-j", ".text"]
            subprocess.run([*extract, object_file, target], check=True)
            packed = lzma.compress(target.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
            (self.out / f"firmware-{kind}.bin.xz").write_bytes(packed)
        return target

    def store(self, name: str, image: Path, blocks: Blocks, facts: Mapping[str, Any]) -> None:
        """Pack an image, holes kept, and note what is known of it."""
        packed = self.scratch / f"{name}.{'stream' if facts['kind'] == 'stream' else 'save'}"
        os.rename(image, packed)
        packed.chmod(0o644)
        tar = ["tar", "--format=gnu", "--sparse", "--numeric-owner", "--owner=0", "--group=0"]
        tar += ["--mtime=2026-01-01T00:00:00Z", "-C", str(self.scratch), "-cf", "-", packed.name]
        archive = subprocess.run(tar, check=True, capture_output=True).stdout
        target = self.out / f"{name}.tar.xz"
        target.write_bytes(lzma.compress(archive, preset=9 | lzma.PRESET_EXTREME))
        with packed.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.manifest[name] = {
            "file": packed.name,
            "length": packed.stat().st_size,
            "sha256": digest,
            **facts,
            "blocks": dict(sorted(blocks.items())),
        }
        packed.unlink()
        print(f"{name:24} {target.stat().st_size:8}", flush=True)

    def finish(self) -> None:
        """Write the manifest."""
        text = json.dumps(self.manifest, indent=1) + "\n"
        (self.out / "MANIFEST.json").write_text(text)

    # Bare streams

    def stream(self, name: str, recipe: Recipe) -> None:
        """Make one stream, and its twin."""
        kind = "live" if recipe.live else recipe.firmware
        firmware = self.firmware(kind)
        arguments = [
            *("-machine", recipe.machine),
            *("-m", f"{recipe.memory}M{recipe.hotplug}"),
            *("-smp", str(recipe.vcpus), "-bios", "{firmware}", *recipe.arguments),
        ]
        with (self.scratch / "dimm").open("wb") as dimm:
            for page in (0, 1, 5, 1023):
                dimm.seek(page * 4096)
                dimm.write(f"page {page} of the DIMM".encode().ljust(4096, b"."))
        filled = [a.format(firmware=firmware, scratch=self.scratch) for a in arguments]
        image, blocks = self.scratch / "image", {}
        for _ in range(20):
            with suppress(EarlyEnd), Guest(self.scratch, filled, name=name) as guest:
                blocks = self.save(guest, image, recipe)
                break
        else:
            raise EarlyEnd(f"{name}, every time")
        if "background-snapshot" in recipe.capabilities:
            # The guest ran on: only a loaded copy can tell what the image holds.
            with Guest(self.scratch, filled, name=name, incoming=True) as guest:
                guest.load(f"file:{image}", {c: True for c in MAPPED if c in recipe.capabilities})
                blocks = describe(guest)
        common = {
            "kind": "stream",
            "codec": "raw",
            "machine": recipe.machine.split(",")[0],
            "vcpus": recipe.vcpus,
            "live": recipe.live,
            "firmware": kind,
            "arguments": without_files(arguments),
            **recipe.facts,
        }
        how = saved(recipe.capabilities, recipe.parameters)
        if not recipe.twin:
            self.store(name, image, blocks, {**common, **how})
            return
        second = self.scratch / "second"
        with Guest(self.scratch, filled, name=name, incoming=True) as guest:
            guest.load(f"file:{image}", recipe.capabilities)
            assert describe(guest) == blocks, f"{name}: not the same after loading"
            twin = recipe.twin_capabilities, recipe.twin_parameters
            guest.migrate_to(f"file:{second}", *twin)
        self.store(name, image, blocks, {**common, **how, "twin": recipe.twin})
        self.store(recipe.twin, second, blocks, {**common, **saved(*twin), "twin": name})

    def save(self, guest: Guest, image: Path, recipe: Recipe) -> Blocks:
        """Save a guest that has not run yet, and return its RAM blocks."""
        guest.cont()
        guest.wait_console("R")
        if recipe.live and "background-snapshot" not in recipe.capabilities:
            return self.save_live(guest, image, recipe)
        if not recipe.live:
            guest.stop()
        if recipe.before:
            recipe.before(guest, self.scratch)
        blocks = describe(guest)
        guest.migrate_to(f"file:{image}", recipe.capabilities, recipe.parameters)
        return blocks

    def save_live(self, guest: Guest, image: Path, recipe: Recipe) -> Blocks:
        """Save while the guest dirties pages, then zeroes some of those already written."""
        # At 1 MiB/s not even one page fits in a downtime of 1 ms: QEMU goes on as long as
        # the guest dirties pages.  (A threshold of zero would make it stop at once.)
        slow = {"max-bandwidth": MIB, "downtime-limit": 1, "avail-switchover-bandwidth": MIB}
        slow |= recipe.parameters
        guest.start_migration(f"file:{image}", recipe.capabilities, slow)

        def rounds() -> int:
            state = guest.migration()
            if state.get("status") == "completed":
                raise EarlyEnd
            return int(state.get("ram", {}).get("dirty-sync-count", 0))

        wait_for(lambda: rounds() >= 2, "second round")
        # So slow that the guest comes to dirty something in every round; deltas are small.
        trickle = 8 << 10 if "xbzrle" in recipe.capabilities else 128 << 10
        guest.configure({}, {"max-bandwidth": trickle})
        wait_for(lambda: rounds() >= 4, "fourth round")
        guest.type("s")
        guest.wait_console("Z")
        seen = rounds()
        wait_for(lambda: rounds() >= seen + 2, "two more rounds")
        guest.configure({}, {"downtime-limit": 10000, "avail-switchover-bandwidth": 1 << 34})
        guest.configure({}, {"max-bandwidth": 1 << 34})
        guest.wait_migration()
        return describe(guest)

    # libvirt images

    @contextmanager
    def libvirt(self, *settings: str) -> Iterator[Libvirt]:
        """Run a private libvirtd with the files that the domains name."""
        with Libvirt(settings) as libvirt:
            images = libvirt.path("/var/lib/libvirt/images/x").parent
            firmware = self.firmware("libvirt", 16).read_bytes()
            (images / "firmware.bin").write_bytes(firmware)
            (images / "boot.img").write_bytes(boot_sector(self.scratch).ljust(MIB, b"\0"))
            yield libvirt

    def codecs(self, libvirt: Libvirt) -> None:
        """Save one and the same guest in every format of libvirt."""
        libvirt.start(DOMAIN)
        console = libvirt.path("/var/lib/libvirt/console/golden.log")
        wait_for(lambda: console.read_text() == "R", "sign of life")
        libvirt.virsh("suspend", "golden")
        blocks = describe_domain(libvirt)
        for codec in CODECS:
            image = self.scratch / "image"
            # The first one shall go on by itself when restored, the others stay paused.
            libvirt.save("golden", image, codec, *(["--running"] if codec == "raw" else []))
            libvirt.restore(image, "--paused")
            assert describe_domain(libvirt) == blocks, f"{codec}: not the same after restoring"
            self.store_save(f"libvirt-{codec}", image, blocks, codec, was_running=codec == "raw")
        libvirt.destroy("golden")

    def snapshot(self, libvirt: Libvirt, name: str, codec: str, **facts: Any) -> None:
        """Take the memory image of a live external snapshot."""
        libvirt.start(DOMAIN)
        console = libvirt.path("/var/lib/libvirt/console/golden.log")
        wait_for(lambda: console.read_text() == "R", "sign of life")
        image = self.scratch / "image"
        libvirt.snapshot("golden", image)
        blocks = describe_domain(libvirt)
        libvirt.destroy("golden")
        self.store_save(name, image, blocks, codec, was_running=True, live=True, **facts)

    def dump(self, libvirt: Libvirt, name: str, codec: str) -> None:
        """Take a full dump, which is a bare stream, compressed."""
        libvirt.start(DOMAIN)
        console = libvirt.path("/var/lib/libvirt/console/golden.log")
        wait_for(lambda: console.read_text() == "R", "sign of life")
        libvirt.virsh("suspend", "golden")
        blocks = describe_domain(libvirt)
        image = self.scratch / "image"
        libvirt.virsh("dump", "golden", image)
        libvirt.destroy("golden")
        common = {"kind": "stream", "codec": codec, "live": False, **LIBVIRT_GUEST}
        self.store(name, image, blocks, {**common, **saved({}, {})})

    def rich(self, libvirt: Libvirt) -> None:
        """Save a guest with a BIOS, a boot sector and many devices."""
        libvirt.start(RICH_DOMAIN)
        console = libvirt.path("/var/lib/libvirt/console/rich.log")
        wait_for(lambda: "B" in console.read_text(), "sign of life")
        libvirt.virsh("suspend", "rich")
        blocks = describe_domain(libvirt, "rich")
        image = self.scratch / "image"
        libvirt.save("rich", image, "sparse", "--running")
        facts = {"machine": "pc-i440fx-9.2", "vcpus": 2, "domain": "rich", "arguments": None}
        self.store_save("libvirt-devices", image, blocks, "sparse", was_running=True, **facts)

    def store_save(self, name: str, image: Path, blocks: Blocks, codec: str, **facts: Any) -> None:
        """Store an image of libvirt."""
        mapped = codec == "sparse" and not facts.get("mislabelled")
        common: dict[str, Any] = {
            "kind": "libvirt",
            "codec": "raw" if codec == "sparse" else codec,
            "format": CODECS.index(codec),
            "live": False,
            "domain": "golden",
            **LIBVIRT_GUEST,
        }
        how = saved(MULTIFD if mapped else {}, {"multifd-channels": 1} if mapped else {})
        self.store(name, image, blocks, {**common, **facts, **how})


def saved(capabilities: Mapping[str, bool], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about how a stream was saved, and so of its layout."""
    return {
        "layout": "mapped-ram" if "mapped-ram" in capabilities else "sequential",
        "capabilities": [c for c in ("x-ignore-shared", "mapped-ram") if c in capabilities],
        "save_capabilities": dict(capabilities),
        "save_parameters": dict(parameters),
    }


def without_files(arguments: Sequence[str]) -> list[str]:
    """Return arguments that load the image: file-backed memory as plain memory."""
    backed = "memory-backend-file", ",mem-path="
    return [
        a.replace(backed[0], "memory-backend-ram").split(backed[1])[0] if backed[0] in a else a
        for a in arguments
    ]


def describe(guest: Guest) -> Blocks:
    """Return length and hash of every RAM block, as QEMU holds them."""
    hashes = guest.block_hashes()
    return {b.name: {"length": b.length, "sha256": hashes[b.name]} for b in guest.ram_blocks()}


def describe_domain(libvirt: Libvirt, name: str = "golden") -> Blocks:
    """Return the same for a domain."""
    hashes = libvirt.block_hashes(name)
    blocks = libvirt.ram_blocks(name)
    return {b.name: {"length": b.length, "sha256": hashes[b.name]} for b in blocks}


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description="Make the golden images.")
    parser.add_argument("out", type=Path, metavar="OUTDIR")
    parser.add_argument("--only", default="", help="only names that begin with this")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="savefmt-golden-") as scratch:
        maker = Maker(options.out, Path(scratch))
        if options.only:
            maker.manifest = json.loads((options.out / "MANIFEST.json").read_text())
        for name, recipe in STREAMS.items():
            if name.startswith(options.only):
                maker.stream(name, recipe)
        if "libvirt".startswith(options.only[:7]):
            with maker.libvirt() as libvirt:
                maker.codecs(libvirt)
                maker.snapshot(libvirt, "libvirt-live", "raw")
                maker.rich(libvirt)
            settings = ('snapshot_image_format = "sparse"', 'dump_image_format = "gzip"')
            with maker.libvirt(*settings) as libvirt:
                maker.snapshot(libvirt, "libvirt-mislabelled", "sparse", mislabelled=True)
                maker.dump(libvirt, "dump-gzip", "gzip")
        maker.finish()
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
