"""Pretend hosts on one machine: each a network, mount, PID, UTS and IPC namespace with a root of its own and an sshd.

A host's disk is an overlay over this machine's root whose upper layer is a tmpfs: whatever it writes is gone with it.
One folder is shared by all, as a network file system would be.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("sshd", "ssh", "ssh-keygen", "rsync", "ip", "ps", "tini", "unshare", "setsid")
PACKAGES = "openssh-server openssh-client rsync iproute2 procps tini"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

# Runs inside the new namespaces. The real root is the overlay's lower layer and is never written.
INIT = """
    set -e
    mount --make-rprivate /
    hostname {name}
    mount -t tmpfs -o size=4g,mode=755 disk {folder}/disk
    mkdir {folder}/disk/upper {folder}/disk/work {folder}/disk/root
    root={folder}/disk/root
    mount -t overlay overlay -o lowerdir=/,upperdir={folder}/disk/upper,workdir={folder}/disk/work $root
    mount --rbind /dev $root/dev
    mount -t tmpfs -o size=1g,mode=1777 shm $root/dev/shm
    mount -t proc proc $root/proc
    mount -t sysfs sysfs $root/sys
    mount -t tmpfs -o mode=755 run $root/run
    mkdir -m 755 $root/run/sshd
    install -m 600 {folder}/hostkey $root/run/hostkey
    mount -t tmpfs -o mode=1777 tmp $root/tmp
    {environment}
    rm -rf $root/root/.ssh $root/root/.ray $root/root/.bashrc $root/root/.bash_profile $root/root/.profile
    mkdir -m 700 $root/root/.ssh
    cp {folder}/../key.pub $root/root/.ssh/authorized_keys
    mkdir -p $root{mountpoint}
    mount --bind {shared} $root{mountpoint}
    mkdir $root/.old
    cd $root
    pivot_root . .old
    umount -l /.old
    rmdir /.old
    export HOME=/root
    cd /root
    exec tini -- /usr/sbin/sshd -D -e -f /dev/null -h /run/hostkey -o ListenAddress={address}:22 -o PidFile=none \\
      -o PasswordAuthentication=no -o UsePAM=no -o PermitRootLogin=prohibit-password -o StrictModes=no \\
      -o MaxStartups=100 -o MaxSessions=100
"""


def _environment() -> str:
    """A host's /tmp is its own; where this Python environment lies in ours, the host sees it all the same."""
    if not Path(sys.prefix).is_relative_to("/tmp"):
        return ":"
    return f"mkdir -p $root{sys.prefix} && mount --bind {sys.prefix} $root{sys.prefix}"


def missing() -> str | None:
    """Why no hosts can stand here; None if they can."""
    if os.geteuid() != 0:
        return "pretend hosts need root"
    lacking = [tool for tool in TOOLS if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
    if lacking:
        return f"pretend hosts need {', '.join(lacking)}: apt-get install {PACKAGES}"
    trial = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"namespaces can't be made here: {trial.stderr.strip()}" if trial.returncode else None


@contextmanager
def up(count: int, mountpoint: str = "/mnt/laresa") -> Iterator[Hosts]:
    """`count` hosts, taken down whatever happens inside, SIGTERM included."""
    hosts = Hosts(mountpoint)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        hosts.build(count)
        yield hosts
    finally:
        hosts.down()
        signal.signal(signal.SIGTERM, before)


class Hosts:
    """Host i has address `.address(i)`; this machine reaches them from `.gateway`. Keys and disks lie in `.state`."""

    def __init__(self, mountpoint: str) -> None:
        self.mountpoint = mountpoint
        self.state = Path(tempfile.mkdtemp(prefix="laresa-hosts-"))
        self.shared, self.key = self.state / "shared", self.state / "key"
        self.prefix = f"h{os.getpid() % 100000}"  # of every interface and namespace made here
        self.network = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.gateway = f"{self.network}.1"
        self.count = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def address(self, i: int) -> str:
        return f"{self.network}.{10 + i}"

    def build(self, count: int) -> None:
        self.shared.mkdir()
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        _run("ip", "link", "add", f"{self.prefix}b", "type", "bridge")
        _run("ip", "addr", "add", f"{self.gateway}/24", "dev", f"{self.prefix}b")
        _run("ip", "link", "set", f"{self.prefix}b", "up")
        for i in range(count):
            self.count = i + 1
            self._plug_in(i)
            self._start(i)
        for i in range(count):
            self._await_ssh(i)

    def kill(self, i: int) -> None:
        """Power cut: every process of the host is gone at once, its disk with them."""
        self._processes[i].kill()  # unshare --kill-child takes the namespace along
        self._processes.pop(i).wait()
        deadline = time.monotonic() + 10
        while self.processes(i):  # the kernel takes a moment, and an sshd that is dying still answers
            assert time.monotonic() < deadline, f"host {i} does not die"
            time.sleep(0.02)

    def revive(self, i: int) -> None:
        """The same address with an empty disk."""
        self._start(i)
        self._await_ssh(i)

    def cut(self, i: int) -> None:
        """Cable out: the host's processes live on, its peers see neither FIN nor RST."""
        _run("ip", "link", "set", f"{self.prefix}v{i}", "down")

    def mend(self, i: int) -> None:
        _run("ip", "link", "set", f"{self.prefix}v{i}", "up")

    def sh(self, i: int, command: str, *, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`command` in an interactive shell of host i, as its user would type it."""
        options = ["-q", "-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        done = subprocess.run(
            ["ssh", *options, f"root@{self.address(i)}", f"bash -ic {shlex.quote(command)}"],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"host {i}: {command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def processes(self, i: int) -> list[str]:
        """Command lines of what runs on host i."""
        pids = subprocess.run(
            ["ip", "netns", "pids", f"{self.prefix}{i}"], capture_output=True, text=True
        ).stdout.split()
        found = list[str]()
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def down(self) -> None:
        """Nothing stays: no process, no namespace, no interface, no mount, no file."""
        for i in list(self._processes):
            self.kill(i)
        for i in range(self.count):
            subprocess.run(["ip", "link", "delete", f"{self.prefix}v{i}"], capture_output=True)
            subprocess.run(["ip", "netns", "delete", f"{self.prefix}{i}"], capture_output=True)
        subprocess.run(["ip", "link", "delete", f"{self.prefix}b"], capture_output=True)
        shutil.rmtree(self.state)

    def _plug_in(self, i: int) -> None:
        space, veth = f"{self.prefix}{i}", f"{self.prefix}v{i}"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", veth, "master", f"{self.prefix}b", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")

    def _start(self, i: int) -> None:
        folder = self.state / f"host{i}"
        if not folder.exists():
            (folder / "disk").mkdir(parents=True)
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "hostkey"))
        places = {"folder": folder, "shared": self.shared, "mountpoint": self.mountpoint}
        script = textwrap.dedent(INIT).format(
            name=f"host{i}", address=self.address(i), environment=_environment(), **places
        )
        (folder / "init.sh").write_text(script)
        command = ["ip", "netns", "exec", f"{self.prefix}{i}", "unshare", "--mount", "--pid", "--uts", "--ipc"]
        command += ["--fork", "--kill-child", "bash", str(folder / "init.sh")]
        with (folder / "log").open("ab") as log:
            self._processes[i] = subprocess.Popen(
                command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _await_ssh(self, i: int) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((self.address(i), 22), timeout=1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline or self._processes[i].poll() is not None:
                    log = (self.state / f"host{i}" / "log").read_text(errors="replace")
                    raise AssertionError(f"host {i} did not come up\n{log}") from error
                time.sleep(0.05)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
