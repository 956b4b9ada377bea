#!/usr/bin/python3 -I
"""ssh(1), scp(1), ssh-copy-id(1) and sshd(8) between the hosts of a test, under these names.

The server hears port 22 of its host and runs a command as root's shell would, for whoever shows a
key that is in authorized_keys, or has the password, as whoever calls ssh-copy-id does. Nothing is
encrypted: what the tests are about is the commands, not the way to the other host.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

PORT = 22
KEY = Path("/root/.ssh/id_rsa.pub")
KEYS = Path("/root/.ssh/authorized_keys")
PATH = "/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Until the other host has answered, in seconds.
PATIENCE = 60


def send(connection, message):
    connection.sendall(json.dumps(message).encode())
    connection.shutdown(socket.SHUT_WR)


def receive(connection):
    with connection.makefile("rb") as file:
        return json.loads(file.read())


def serve(connection):
    asked = receive(connection)
    known = KEYS.read_text().splitlines() if KEYS.exists() else []
    if not asked["password"] and asked["key"] not in known:
        send(connection, [255, "", "Permission denied (publickey,password).\n"])
        return
    ended = subprocess.run(
        asked["command"], shell=True, cwd="/root", input=asked["input"].encode("latin1"),
        env={"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}, capture_output=True, check=False,
    )
    said = [ended.stdout.decode("latin1"), ended.stderr.decode("latin1")]
    send(connection, [ended.returncode, *said])


def sshd():
    listener = socket.create_server(("", PORT), backlog=8)
    # It listens; whoever has started it goes on.
    if os.fork():
        return 0
    os.setsid()
    while True:
        connection, _ = listener.accept()
        with connection:
            serve(connection)


def remote(host, command, given=b"", password=False):
    """Runs a command on a host; its code, and what it has printed and said."""
    asked = {"command": command, "input": given.decode("latin1"), "password": password}
    asked["key"] = KEY.read_text().strip()
    with socket.create_connection((host, PORT), timeout=PATIENCE) as connection:
        send(connection, asked)
        code, printed, said = receive(connection)
    sys.stderr.buffer.write(said.encode("latin1"))
    return code, printed.encode("latin1")


def ssh(words):
    host = None
    while words:
        word = words.pop(0)
        if word in ("-o", "-e"):
            words.pop(0)
        elif word == "--" or host and not word.startswith("-"):
            words = words if word == "--" else [word, *words]
            break
        elif not word.startswith("-"):
            host = word.removeprefix("root@")
        elif word != "-lroot":
            sys.exit(f"ssh: {word} is not known")
    code, printed = remote(host, " ".join(words))
    sys.stdout.buffer.write(printed)
    return code


def scp(words):
    assert words[:2] == ["-o", "BatchMode=yes"], words
    source, target = words[2:]
    far = re.compile(r"root@\[([0-9a-f.:]+)\]:(.*)")
    if found := far.fullmatch(source):
        code, data = remote(found[1], f"cat {found[2]}")
        if code == 0:
            to = Path(target)
            to = to / Path(found[2]).name if to.is_dir() else to
            to.write_bytes(data)
        return code
    if found := far.fullmatch(target):
        name = Path(source).name
        command = f"to={found[2]}; if [ -d $to ]; then to=$to/{name}; fi; cat >$to"
        return remote(found[1], command, Path(source).read_bytes())[0]
    shutil.copy(source, target)
    return 0


def ssh_copy_id(words):
    assert words[:2] == ["-i", str(KEY.with_suffix(""))], words
    host = words[2].removeprefix("root@")
    command = f"umask 077; mkdir -p {KEYS.parent}; cat >>{KEYS}"
    return remote(host, command, KEY.read_bytes(), password=True)[0]


def main():
    match Path(sys.argv[0]).name:
        case "sshd":
            return sshd()
        case "ssh":
            return ssh(sys.argv[1:])
        case "scp":
            return scp(sys.argv[1:])
        case "ssh-copy-id":
            return ssh_copy_id(sys.argv[1:])
    return 2


if __name__ == "__main__":
    sys.exit(main())
