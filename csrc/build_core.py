"""How cffi builds the C core: the cdef beside this file against our own headers."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADERS = (
    "sf_err.h",
    "sf_page.h",
    "sf_scan.h",
    "sf_latency.h",
    "sf_file.h",
    "sf_pages.h",
    "sf_job.h",
    "sf_ring.h",
    "sf_sum.h",
    "sf_append.h",
    "sf_move.h",
    "sf_fill.h",
    "sf_emit.h",
    "sf_index.h",
    "sf_tally.h",
    "sf_scatter.h",
    "sf_find.h",
    "sf_many.h",
    "sf_text.h",
    "sf_census.h",
    "sf_map.h",
    "sf_cell.h",
    "owned.h",
)

ffibuilder = FFI()
ffibuilder.cdef((HERE / "savefmt.cdef").read_text())
ffibuilder.set_source(
    "savefmt.native._core",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    # Relative, as setuptools wants them: setup.py runs in the project's root.
    sources=sorted(f"{HERE.name}/{path.name}" for path in HERE.glob("*.c")),
    depends=sorted(f"{HERE.name}/{path.name}" for path in HERE.glob("*.h")),
    include_dirs=[HERE.name],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    extra_link_args=["-pthread"],
    define_macros=[("_GNU_SOURCE", None)],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
