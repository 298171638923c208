"""A file system with one file whose reads are never answered: who reads it cannot be killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "stuck.save"


@contextmanager
def stuck_file(folder: Path) -> Iterator[Path]:
    """Mount it at a folder; when it goes, whoever is stuck gets an error."""
    with subprocess.Popen([sys.executable, __file__, folder]) as server:
        try:
            deadline = time.monotonic() + 60
            while not os.path.ismount(folder):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield folder / NAME
        finally:
            server.kill()
            server.wait()
            subprocess.run(["umount", "-l", folder], check=True, timeout=60)


class _Files:
    use_ns = True

    def getattr(self, path: str, handle: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, "st_size": 1 << 20}

    def readdir(self, path: str, handle: int) -> list[str]:
        return [".", "..", NAME]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, length: int, offset: int, handle: int) -> bytes:
        threading.Event().wait()
        return b""


if __name__ == "__main__":
    import mfusepy

    # Past the page cache, where the kernel would let go of who is killed.
    options = {"foreground": True, "direct_io": True, "max_idle_threads": 10}
    mfusepy.FUSE(_Files(), sys.argv[1], **options)
