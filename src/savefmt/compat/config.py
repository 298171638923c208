"""Settings: built-in, then /etc/savefmt.toml, the user's file, the environment, flags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from savefmt.compat.policy import FORMATS, MAX_CHANNELS, SAVE_VERSIONS, Missing, SaveRequest
from savefmt.compat.releases import Reader
from savefmt.errors import ConversionError, ImageIOError, SavefmtError
from savefmt.frozen import dataclass, field

SYSTEM_FILE = Path("/etc/savefmt.toml")
ENVIRONMENT_PREFIX = "SAVEFMT_"
FILE_VARIABLE = "SAVEFMT_CONFIG"
"""Names the only file to be read."""
_REQUIREMENTS = "SAVEFMT_REQUIRE_"
"""Begins the variables that make a test fail instead of being skipped."""
_MAX_LENGTH = 1 << 16
_MAX_LINE_LENGTH = 1 << 10
"""Bytes of a file of settings, and of its lines: tomllib takes time by the square of a key."""


class ConfigError(SavefmtError):
    """A setting that does not exist or cannot have its value."""


Value = str | int | bool | list[str] | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes
    ----------
    name : str
        In the file; upper case behind ``SAVEFMT_`` in the environment.
    default : str, int, bool, list or None
        Built in; None is "not set".
    meaning : str
        For ``savefmt config show``.
    check : callable
        Returns what is wrong with a value, or nothing.
    read : callable
        Makes a value of the text of an environment variable.
    """

    name: str
    default: Value
    meaning: str
    check: Callable[[object], str]
    read: Callable[[str], Value]

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper()


def _one_of(*words: str) -> Callable[[object], str]:
    return lambda value: "" if value in words else f"must be one of {', '.join(words)}"


def _channels(value: object) -> str:
    good = type(value) is int and 1 <= value <= MAX_CHANNELS
    return "" if good else f"must be a number from 1 to {MAX_CHANNELS}"


def _seconds(value: object) -> str:
    good = type(value) is int and 1 <= value <= 3600
    return "" if good else "must be a number of seconds from 1 to 3600"


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _readers(value: object) -> str:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return 'must be a list such as ["libvirt=11.3.0"]'
    try:
        for word in value:
            Reader.parse(word)
    except ConversionError as error:
        return error.message
    return ""


def _text(text: str) -> Value:
    return text


def _number(text: str) -> Value:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def _boolean(text: str) -> Value:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
        text.lower(), text
    )


def _words(text: str) -> Value:
    return [word for word in text.replace(",", " ").split() if word]


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "save_version",
        None,
        "3 (as proposed), 2 (sequential) or upstream (version 2 with format sparse)",
        _one_of(*SAVE_VERSIONS),
        _text,
    ),
    Setting("format", "auto", "auto, or a name after -O", _one_of(*FORMATS), _text),
    Setting("parallel", None, "channels of a parallel save", _channels, _number),
    Setting("bypass_cache", False, "keep the page cache out of saves", _flag, _boolean),
    Setting(
        "missing",
        "prefer",
        "what to do where something cannot be had: prefer (fall back) or require (refuse)",
        _one_of(*Missing),
        _text,
    ),
    Setting("readers", [], "who shall be able to load what is saved", _readers, _words),
    Setting("timeout", 10, "seconds to wait for a QMP socket to answer", _seconds, _number),
)
"""Every setting there is; anything else is refused."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Config:
    """All settings with where each comes from.

    Attributes
    ----------
    values : dict
        By name of the setting.
    origins : dict of str to str
        ``built in``, a file, or an environment variable.
    """

    values: Mapping[str, Value]
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def timeout(self) -> int:
        """Seconds to wait for a QMP socket."""
        value = self.values["timeout"]
        assert isinstance(value, int)
        return value

    def request(self, **flags: Any) -> SaveRequest:
        """Join the settings with flags of a command line.

        Parameters
        ----------
        **flags
            Fields of `SaveRequest`; None keeps the setting.

        Returns
        -------
        SaveRequest
            For `savefmt.compat.policy.plan_save`.
        """
        values: dict[str, Any] = {name: self.values[name] for name in _REQUESTED}
        values["readers"] = tuple(Reader.parse(word) for word in values["readers"])
        values |= {name: flag for name, flag in flags.items() if flag is not None}
        values["missing"] = Missing(values["missing"])
        return SaveRequest(**values)


_REQUESTED = ("save_version", "format", "parallel", "bypass_cache", "missing", "readers")


def user_file(environment: Mapping[str, str]) -> Path | None:
    """Return the place of the user's file (XDG base directories); None for the homeless."""
    home = environment.get("XDG_CONFIG_HOME", "")
    try:
        own = environment.get("HOME") or os.fspath(Path.home())
    except RuntimeError:
        own = ""
    base = home if home.startswith("/") else f"{own}/.config" if own else ""
    return Path(base) / "savefmt" / "config.toml" if base else None


def load(
    environment: Mapping[str, str] | None = None, *, system_file: Path = SYSTEM_FILE
) -> Config:
    """Read all places in turn; the later ones win.

    Parameters
    ----------
    environment : mapping, optional
        The variables; those of the process by default.
    system_file : Path
        The first file.

    Returns
    -------
    Config
        Complete.

    Raises
    ------
    ConfigError
        If a setting does not exist or cannot have its value.
    ImageIOError
        If a file that exists cannot be read.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Value] = {setting.name: setting.default for setting in SETTINGS}
    origins = dict.fromkeys(values, "built in")
    for path, must_exist in _files(environment, system_file):
        for name, value in _read_file(path, must_exist).items():
            values[name] = _checked(name, value, str(path))
            origins[name] = str(path)
    for variable, text in sorted(environment.items()):
        if _is_setting(variable):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            if name not in _BY_NAME or variable != _BY_NAME[name].variable:
                raise ConfigError(
                    f"the environment sets {variable}, which is not a setting of savefmt; unset it"
                )
            values[name] = _checked(name, _BY_NAME[name].read(text), variable)
            origins[name] = variable
    return Config(values, origins)


def _is_setting(variable: str) -> bool:
    if variable == FILE_VARIABLE or variable.startswith(_REQUIREMENTS):
        return False
    return variable.startswith(ENVIRONMENT_PREFIX)


def _files(environment: Mapping[str, str], system_file: Path) -> Iterator[tuple[Path, bool]]:
    named = environment.get(FILE_VARIABLE)
    if named:
        yield Path(named), True
        return
    yield system_file, False
    if (own := user_file(environment)) is not None:
        yield own, False


def _read_file(path: Path, must_exist: bool) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_LENGTH + 1)
    except FileNotFoundError as error:
        if must_exist:
            raise ImageIOError.from_os(error, path=path) from error
        return {}
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    if len(text) > _MAX_LENGTH:
        raise ConfigError("this is not a settings file: it is longer than 64 KiB", path=path)
    if max(map(len, text.splitlines()), default=0) > _MAX_LINE_LENGTH:
        raise ConfigError("this is not a settings file: a line has more than 1 KiB", path=path)
    import tomllib  # most people have no settings

    try:
        return tomllib.loads(text.decode())
    except RecursionError as error:
        raise ConfigError("this is not a settings file: it nests too deeply", path=path) from error
    except ValueError as error:  # of TOML, of UTF-8, of a number with too many digits
        raise ConfigError(f"this is not valid TOML: {error}", path=path) from error


def _checked(name: str, value: object, where: str) -> Value:
    setting = _BY_NAME.get(name)
    if setting is None:
        known = ", ".join(_BY_NAME)
        raise ConfigError(f"{where}: there is no setting {name!r}; there are {known}")
    problem = setting.check(value)
    if problem:
        raise ConfigError(f"{where}: {name} {problem}")
    assert value is None or isinstance(value, str | int | bool | list)
    return value
