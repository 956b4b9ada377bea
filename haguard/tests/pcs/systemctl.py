#!/usr/bin/python3 -I
"""systemctl(1) on a host of a test, where there is no systemd to talk to.

It starts what the unit files of the packages say, as the user they say, with the runtime directory
they say, and waits for READY=1 where they say Type=notify. It is not told what a unit needs, and
starts nothing again. State is in /run/units: NAME.pid, NAME.log, NAME.enabled, and what it was
asked and does not know in unknown.
"""

import os
import pwd
import select
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

UNITS = Path("/lib/systemd/system")
STATE = Path("/run/units")
# Until a daemon is ready, and until one has stopped, in seconds; systemd's own is 90.
PATIENCE = 30


def settings(name):
    """The [Service] section; of a key given twice the last value."""
    found, section = {}, None
    for line in (UNITS / f"{name}.service").read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found[key] = value
    return found


def environment(unit):
    """Nothing of the caller's: a service has what the manager and its file give it."""
    found = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
    file = Path(unit.get("EnvironmentFile", "").removeprefix("-"))
    for line in file.read_text().splitlines() if file.is_file() else []:
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found[key] = " ".join(shlex.split(value))
    return found


def words(command, variables):
    """A word that is a variable becomes the words of its value."""
    for word in command.split():
        if word.startswith("$"):
            yield from variables.get(word[1:], "").split()
        else:
            yield word


def process(name):
    """The id of the unit's running process."""
    try:
        pid = int((STATE / f"{name}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Ended, but nobody has asked how.
    return None if state == "Z" else pid


def start(name):
    if process(name):
        return 0
    unit = settings(name)
    user = pwd.getpwnam(unit.get("User", "root"))
    if "RuntimeDirectory" in unit:
        directory = Path("/run") / unit["RuntimeDirectory"]
        directory.mkdir(exist_ok=True)
        directory.chmod(int(unit.get("RuntimeDirectoryMode", "0755"), 8))
        os.chown(directory, user.pw_uid, user.pw_gid)
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = f"/run/units/{name}.notify"
    Path(address).unlink(missing_ok=True)
    ready.bind(address)
    os.chmod(address, 0o777)
    variables = environment(unit)
    if unit.get("Type") == "notify":
        variables["NOTIFY_SOCKET"] = address
    with open(STATE / f"{name}.log", "ab") as log:
        child = subprocess.Popen(
            list(words(unit["ExecStart"], variables)),
            cwd="/", env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            user=user.pw_uid, group=user.pw_gid, extra_groups=[], start_new_session=True,
        )
    (STATE / f"{name}.pid").write_text(f"{child.pid}\n")
    if unit.get("Type") != "notify":
        return 0
    end, waiting = os.pidfd_open(child.pid), select.poll()
    waiting.register(end, select.POLLIN)
    waiting.register(ready, select.POLLIN)
    while events := waiting.poll(PATIENCE * 1000):
        if (ready.fileno(), select.POLLIN) not in events:
            print(f"Job for {name}.service failed: it ended with {child.wait()}", file=sys.stderr)
            return 1
        if b"READY=1" in ready.recv(4096).split(b"\n"):
            return 0
    print(f"Job for {name}.service failed: it is not ready in time", file=sys.stderr)
    return 1


def stop(name):
    pid = process(name)
    if pid is None:
        return 0
    end, waiting = os.pidfd_open(pid), select.poll()
    waiting.register(end, select.POLLIN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(end, number)
        if waiting.poll(PATIENCE * 1000):
            return 0
    return 1


def enable(name):
    settings(name)
    (STATE / f"{name}.enabled").touch()
    return 0


def disable(name):
    (STATE / f"{name}.enabled").unlink(missing_ok=True)
    return 0


def is_active(name):
    active = process(name) is not None
    print("active" if active else "inactive")
    return 0 if active else 3


def is_enabled(name):
    enabled = (STATE / f"{name}.enabled").exists()
    print("enabled" if enabled else "disabled")
    return 0 if enabled else 1


def list_unit_files():
    for file in sorted(UNITS.glob("*.service")):
        enabled = (STATE / f"{file.stem}.enabled").exists()
        print(file.name, "enabled" if enabled else "disabled", "enabled")
    return 0


VERBS = {
    "start": start,
    "stop": stop,
    "enable": enable,
    "disable": disable,
    "is-active": is_active,
    "is-enabled": is_enabled,
}


def main():
    match sys.argv[1:]:
        case ["list-unit-files", "--full"]:
            return list_unit_files()
        case [verb, name] if verb in VERBS:
            return VERBS[verb](name.removesuffix(".service"))
    with open(STATE / "unknown", "a", encoding="utf-8") as unknown:
        print(*sys.argv[1:], file=unknown)
    return 2


if __name__ == "__main__":
    sys.exit(main())
