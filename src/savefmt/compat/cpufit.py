"""Whether a QEMU on this host can give a guest the processor that it had."""

from __future__ import annotations

from typing import Any

from savefmt.compat.ask import has_kvm
from savefmt.format.hardware import Hardware
from savefmt.qmp import CommandError, Monitor

_LIBVIRTS_OWN = {"pclmuldq": "pclmulqdq"}


def qemus_name(feature: str) -> str:
    """Return QEMU's name of a CPU feature that libvirt names."""
    return _LIBVIRTS_OWN.get(feature, feature).replace("_", "-")


def cpu_lack(monitor: Monitor, hardware: Hardware) -> str | None:
    """Tell what of a guest's processor a QEMU cannot give, with its accelerator on its host.

    Parameters
    ----------
    monitor : Monitor
        Of a QEMU, which may be without a guest.
    hardware : Hardware
        What the domain XML and the cookie say of the processor.

    Returns
    -------
    str or None
        What is missing, empty if nothing is; None where image or QEMU do not tell.
    """
    model, features = hardware.cpu_model, hardware.cpu_features
    if model is None or not features:
        return None
    try:
        listed: list[dict[str, Any]] = monitor.execute("query-cpu-definitions")
        entry = next((entry for entry in listed if entry["name"] == model), None)
        if entry is None:
            return f"this QEMU has no CPU model {model}"
        lacking = set(entry["unavailable-features"])
        can = _most(monitor)
    except (CommandError, KeyError):  # only some architectures tell
        return None
    wanted = {qemus_name(name): had for name, had in features}
    without = {name for name, had in wanted.items() if not had}
    missing = (lacking - without) | {n for n, had in wanted.items() if had and can.get(n) is False}
    if not missing:
        return ""
    return f"the CPU features {', '.join(sorted(missing))}, which the guest had, are not here"


def _most(monitor: Monitor) -> dict[str, Any]:
    """Return the features of the best processor that this QEMU can give."""
    best = "host" if has_kvm(monitor) else "max"
    answer = monitor.execute("query-cpu-model-expansion", type="full", model={"name": best})
    props: dict[str, Any] = answer["model"]["props"]
    return props
