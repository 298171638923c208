"""Settings: who wins, and that nothing wrong is taken."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from savefmt.cli.render.config import config_lines
from savefmt.compat.config import SETTINGS, Config, ConfigError, load, user_file
from savefmt.compat.policy import Missing
from savefmt.compat.releases import Reader
from savefmt.errors import ImageIOError


def read(tmp_path: Path, user: str = "", system: str = "", **environment: str) -> Config:
    """Load with these files and variables, and no others."""
    (tmp_path / "savefmt").mkdir(exist_ok=True)
    (tmp_path / "savefmt/config.toml").write_text(user)
    (tmp_path / "system.toml").write_text(system)
    variables = {"XDG_CONFIG_HOME": str(tmp_path), **environment}
    return load(variables, system_file=tmp_path / "system.toml")


def test_the_built_in_settings(tmp_path: Path) -> None:
    config = load({"HOME": str(tmp_path)}, system_file=tmp_path / "none")

    assert config.values == {setting.name: setting.default for setting in SETTINGS}
    assert set(config.origins.values()) == {"built in"}
    assert config.request().form == "3"


def test_later_places_win(tmp_path: Path) -> None:
    system = 'save_version = "2"\nparallel = 2\ntimeout = 5\n'
    user = "parallel = 3\ntimeout = 6\n"

    config = read(tmp_path, user, system, SAVEFMT_TIMEOUT="7")

    assert (config.values["save_version"], config.values["parallel"]) == ("2", 3)
    assert config.timeout == 7
    assert config.origins["save_version"] == str(tmp_path / "system.toml")
    assert config.origins["parallel"] == str(tmp_path / "savefmt/config.toml")
    assert config.origins["timeout"] == "SAVEFMT_TIMEOUT"


def test_flags_win_over_all(tmp_path: Path) -> None:
    config = read(tmp_path, 'save_version = "2"\nbypass_cache = true\nmissing = "require"\n')

    request = config.request(save_version="3", bypass_cache=False, missing=None)

    assert (request.save_version, request.bypass_cache) == ("3", False)
    assert request.missing is Missing.REQUIRE


def test_the_environment(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        SAVEFMT_READERS="libvirt=11.3, qemu=9.0",
        SAVEFMT_BYPASS_CACHE="Yes",
        SAVEFMT_FORMAT="zstd",
        SAVEFMT_PARALLEL="4",
    )

    request = config.request()

    assert request.readers == (Reader.parse("libvirt=11.3"), Reader.parse("qemu=9.0"))
    assert (request.bypass_cache, request.format, request.parallel) == (True, "zstd", 4)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("colour = 1", "no setting 'colour'"),
        ("[save]\nversion = 2", "no setting 'save'"),
        ('save_version = "1"', "must be one of 3, 2, upstream"),
        ("save_version = 3", "must be one of"),
        ('format = "lzma"', "must be one of"),
        ("parallel = 0", "from 1 to 64"),
        ("parallel = true", "from 1 to 64"),
        ('bypass_cache = "yes"', "true or false"),
        ('missing = "maybe"', "prefer, require"),
        ('readers = "libvirt=1"', "must be a list"),
        ('readers = ["xen=4"]', "not a reader"),
        ("timeout = 0.5", "seconds"),
        ("timeout 5", "not valid TOML"),
        ("x = \udcff", "not valid TOML"),
    ],
)
def test_wrong_files_are_refused(user: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(user.encode("utf-8", "surrogateescape"))

    with pytest.raises(ConfigError, match=message):
        load({"SAVEFMT_CONFIG": str(path)})


@pytest.mark.parametrize("name", ["SAVEFMT_COLOUR", "SAVEFMT_parallel", "SAVEFMT_"])
def test_unknown_variables_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a setting"):
        read(tmp_path, **{name: "1"})


@pytest.mark.parametrize(
    ("name", "text"), [("PARALLEL", "many"), ("BYPASS_CACHE", "perhaps"), ("TIMEOUT", "-1")]
)
def test_wrong_variables_are_refused(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"SAVEFMT_{name}: {name.lower()} must"):
        read(tmp_path, **{f"SAVEFMT_{name}": text})


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ImageIOError):
        load({"SAVEFMT_CONFIG": str(tmp_path / "none")})


def test_the_named_file_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("timeout = 3")

    config = read(tmp_path, "parallel = 3", "parallel = 2", SAVEFMT_CONFIG=str(tmp_path / "own"))

    assert (config.timeout, config.values["parallel"]) == (3, None)


def test_no_file_of_settings_is_that_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than"):
        read(tmp_path, "#" * (1 << 20) + "\n")


def test_xdg_paths_must_be_absolute() -> None:
    at_home = Path("/home/me/.config/savefmt/config.toml")

    assert user_file({"HOME": "/home/me", "XDG_CONFIG_HOME": "x"}) == at_home
    assert user_file({"HOME": "/home/me"}) == at_home
    assert user_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/savefmt/config.toml")


def test_what_is_shown_can_be_read_back(tmp_path: Path) -> None:
    config = read(tmp_path, 'readers = ["qemu=9.0"]\nparallel = 3\n')

    text = "\n".join(config_lines(config))

    shown = {name: value for name, value in config.values.items() if value is not None}
    assert tomllib.loads(text) == shown
