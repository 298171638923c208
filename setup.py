"""Name the C core, and make the manual and the completions; the rest is in pyproject.toml."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import setup  # first: it brings distutils

from distutils.command.install_data import install_data  # isort: skip

# The core keeps lengths of memory and files in 64 bits, and uses system calls that only Linux has.
if sys.platform != "linux" or sys.maxsize < 2**63 - 1:
    sys.exit("savefmt needs 64-bit Linux and a 64-bit Python: nothing was built.")

# One wheel serves every CPython from 3.11 on, except the free-threaded builds:
# they have no limited API, so theirs carries its own tag.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
COMPLETIONS = {
    "bash": "share/bash-completion/completions/savefmt",
    "zsh": "share/zsh/site-functions/_savefmt",
    "fish": "share/fish/vendor_completions.d/savefmt.fish",
}


class InstallShared(install_data):
    """Write the manual page and the completions from the parser itself."""

    def run(self) -> None:
        """Write them where the wheel takes them from."""
        import shtab
        from argparse_manpage.manpage import Manpage

        os.environ["NO_COLOR"] = "1"  # coloured help would put escape codes into the files
        sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
        from savefmt import __version__
        from savefmt.cli.main import build_parser

        parser = build_parser()
        vars(parser)["man_short_description"] = "work with the save images of QEMU guests"
        manual = Manpage(parser)
        manual.manual, manual.source = "User Commands", f"savefmt {__version__}"
        texts = {path: shtab.complete(parser, shell) for shell, path in COMPLETIONS.items()}
        texts["share/man/man1/savefmt.1"] = str(manual)
        for path, text in texts.items():
            target = Path(self.install_dir, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.rstrip() + "\n", encoding="utf-8")
            self.outfiles.append(str(target))


setup(
    cffi_modules=["csrc/build_core.py:ffibuilder"],
    cmdclass={"install_data": InstallShared},
    # Made while a wheel is built; named so that the step is taken.
    data_files=[("share/man/man1", [])],
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
