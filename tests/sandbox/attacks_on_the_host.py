"""Attacks on what is outside: secrets, files, network, other users' rights, the kernel's settings, the clock."""

from __future__ import annotations

from attacks import Attack

READING = (
    Attack(
        "environment of every process",
        """
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "stack", "io", "mountinfo"):
        try:
            data = open(f"/proc/{pid}/{name}", "rb").read()
        except OSError:
            continue
        if name == "environ" and pid != str(os.getpid()):
            print(pid, data.replace(b"\\0", b" ").decode(errors="replace"))
    for fd in range(20):
        tries("a file of the host", lambda: os.readlink(f"/proc/{pid}/fd/{fd}").startswith(host["folder"]))
    try:
        os.listdir(f"/proc/{pid}/root{host['folder']}")
        breach("the host's folder below", pid)
    except OSError:
        pass
if host["canary_pid"] > 40 and os.path.exists(f"/proc/{host['canary_pid']}/cmdline"):
    print(open(f"/proc/{host['canary_pid']}/cmdline").read())
""",
        deadline_s=20,
    ),
    Attack(
        "the user's home, keys and sockets",
        """
for folder in host["homes"]:
    for name in (".ssh/id_ed25519", ".ssh", ".aws/credentials", ".config", ".netrc", ".bash_history", ".cache"):
        tries("home", lambda: os.stat(f"{folder}/{name}") and f"{folder}/{name}")
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", *host["sockets"]):
    tries("the engine's socket", lambda: os.stat(path) and path)
    tries("the engine's socket answers", lambda: socket.socket(socket.AF_UNIX).connect(path) or path)
for path in (host["file"], host["folder"], "/etc/shadow", "/etc/sudoers", "/run/secrets", "/var/lib/docker", "/boot"):
    tries("a file of the host", lambda: open(path).read(10) if os.path.isfile(path) else (os.listdir(path) or False))
for device in ("/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/kvm", "/dev/vsock"):
    tries("a device", lambda: os.open(device, os.O_RDONLY) and device)
""",
    ),
    Attack(
        "keys and memory shared between processes of a user",
        """
name = host["key"].encode()
def syscall(*words):
    number = libc.syscall(*words)
    return number if number >= 0 else -1
for ring in (-2, -3, -4, -5):
    tries("a key ring", syscall, 250, 10, ring, b"user", name, 0)
tries("a key", syscall, 249, b"user", name, None, 0)
tries("shared memory", libc.shmget, host["shm_key"], 0, 0)
""",
    ),
)

WRITING = (
    Attack(
        "writing outside of the workspace",
        """
for path in (host["folder"] + "/new", "/new", "/usr/bin/new", "/etc/new", "../new", "/workspace/../new",
             "/proc/1/cwd/new", "/proc/self/root/new", "/dev/new", os.path.dirname(python) + "/new", "/var/new",
             "/root/new", "/home/new", "/boot/new", "/opt/new"):
    tries("a new file", lambda: open(path, "ab") and path)
for path in (host["file"], "/etc/passwd", "/etc/hosts", "/usr/bin/env", "/bin/sh", python):
    tries("writing", lambda: open(path, "ab") and path)
    tries("its rights", lambda: os.chmod(path, os.stat(path).st_mode) or path)
    tries("linking", lambda: os.link(path, f"linked-{time.time_ns()}") or path)
    tries("its times", lambda: os.utime(path) or path)
""",
    ),
    Attack(
        "every folder that can be written",
        """
allowed = ("/workspace", "/tmp", "/dev/shm", "/dev/mqueue", "/dev/pts", "/proc", "/var/tmp", "/run/lock")
for folder, below, names in os.walk("/"):
    below[:] = [name for name in below if os.path.join(folder, name) not in ("/proc", "/workspace", "/tmp")]
    if not folder.startswith(allowed) and os.access(folder, os.W_OK):
        tries("a writable folder", lambda: os.open(f"{folder}/{marker}", os.O_CREAT | os.O_WRONLY) and folder)
""",
        deadline_s=30,
    ),
    Attack(
        "the kernel's settings",
        """
for path in ("/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory",
             "/proc/sys/kernel/modprobe", "/proc/sys/kernel/randomize_va_space", "/proc/sysrq-trigger",
             "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/fs/cgroup/release_agent", "/sys/kernel/mm/ksm/run",
             "/sys/devices/system/cpu/cpu1/online", "/proc/irq/default_smp_affinity"):
    tries("a setting", lambda: os.open(path, os.O_WRONLY) and path)
own = {"/proc/sys/" + name for name in host["own_settings"]}  # each namespace has its own: the test looks at its
for folder in ("/sys", "/proc/sys", "/proc/irq", "/proc/fs"):
    for place, below, names in os.walk(folder):
        for name in names:
            path = f"{place}/{name}"
            if path in own and open(path).read().strip().isdigit():
                tries("read-only", lambda: write(path, str(int(open(path).read()) - 1)) or False)
            elif path not in own and os.access(path, os.W_OK):
                tries("a setting", lambda: os.open(path, os.O_WRONLY) and path)
tries("its own core filter", lambda: write("/proc/self/coredump_filter", "0x7f") or False)
tries("the host's name", libc.sethostname, b"breached", 8)
tries("a module", libc.syscall, 175, 0, 0, b"")
tries("a reboot key", libc.reboot, 0x89ABCDEF)
tries("swap", libc.swapoff, b"/dev/null")
tries("accounting", libc.acct, b"/tmp/acct")
tries("the terminal", lambda: os.open("/dev/tty", os.O_RDWR))
tries("the console", lambda: os.open("/dev/console", os.O_RDWR))
""",
        deadline_s=20,
    ),
    Attack(
        "the clock",
        """
class Time(ctypes.Structure): _fields_ = [("s", ctypes.c_long), ("us", ctypes.c_long)]
tries("settimeofday", libc.settimeofday, ctypes.byref(Time(1, 0)), None)
tries("clock_settime", lambda: time.clock_settime(time.CLOCK_REALTIME, 1.0) or True)
tries("adjtime", libc.adjtime, ctypes.byref(Time(1, 0)), None)
tries("the hardware clock", lambda: os.open("/dev/rtc0", os.O_RDONLY))
libc.unshare(0x00000080)
tries("a time namespace", write, "/proc/self/timens_offsets", "monotonic 100000 0")
""",
    ),
)

RIGHTS = (
    Attack(
        "a setuid shell of root in the workspace",
        """
if os.path.exists("rootsh"):
    if (os.stat("rootsh").st_mode & 0o4000) == 0: breach("the test planted nothing")
    shown = subprocess.run(["./rootsh", "-p", "-c", "id -u; cat /proc/self/status"], capture_output=True, text=True)
    if shown.stdout.startswith("0\\n"): breach("root", shown.stdout)
""",
    ),
    Attack(
        "becoming root",
        """
for act in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0),
            lambda: os.chown(".", 0, 0), lambda: os.chroot("."), lambda: os.mknod("device", 0o60666, os.makedev(7, 0)),
            lambda: os.mknod("memory", 0o20666, os.makedev(1, 1))):
    tries("a right of root", lambda: act() or True)
for words in (("su", "-c", "id"), ("sudo", "-n", "id"), ("mount", "-t", "tmpfs", "none", "/usr"),
              ("mount", "-o", "remount,rw", "/usr"), ("umount", "/usr"), ("newuidmap", str(os.getpid()), "0", "0", "1"),
              ("chsh", "-s", "/bin/sh"), ("pkexec", "id"), ("at", "now"), ("crontab", "-l"), ("dmesg", "-C")):
    tries(" ".join(words), run, *words)
status = open("/proc/self/status").read()
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    if int(status.split(name + ":")[1].split()[0], 16): breach(name)
if "NoNewPrivs:\\t1" not in status: breach("new privileges are allowed")
""",
        deadline_s=20,
    ),
    Attack(
        "root of user namespaces of its own",
        """
def outside():
    for flags in (0, 32, 0x1020, 0x1021):
        for folder in ("/usr", "/", "/etc", "/dev", "/proc/sys", "/sys"):
            libc.mount(b"none", folder.encode(), None, flags, None)
    for path in ("/usr/bin/new", "/etc/new", "/new", host["file"], host["folder"] + "/new"):
        tries("written as root of a namespace", lambda: open(path, "ab") and path)
    tries("a device", lambda: os.open(b"/workspace/device", os.O_RDWR) if os.path.exists("/workspace/device") else -1)
    libc.umount2(b"/workspace", 2), libc.umount2(b"/tmp", 2), libc.umount2(b"/etc/passwd", 2)
    tries("below the workspace", lambda: os.listdir(host["folder"]))
    tries("the host's name", lambda: open("/proc/sys/kernel/hostname").read().strip() == host["hostname"])
    tries("a setting", write, "/proc/sys/kernel/core_pattern", open("/proc/sys/kernel/core_pattern").read())
    tries("the host's processes", lambda: os.path.exists(f"/proc/{host['canary_pid']}") and host["canary_pid"] > 60)
    tries("the network", lambda: socket.create_connection(("127.0.0.1", host["tcp"]), 1) and True)
for flags in (0x10000000, 0x10020000, 0x7E020000):
    child = os.fork()
    if child == 0:
        uid, gid = os.getuid(), os.getgid()
        if libc.unshare(flags) == 0:
            for path, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                try:
                    write(f"/proc/self/{path}", text)
                except OSError:
                    pass
            tries("more ids than its own", write, "/proc/self/uid_map", "0 0 100000")
            if os.fork() == 0:
                libc.mount(b"proc", b"/proc", b"proc", 0, None)
                outside()
                os._exit(0)
            os.wait()
        os._exit(0)
    os.waitpid(child, 0)
""",
        deadline_s=20,
    ),
)

NETWORK = (
    Attack(
        "listeners of the host",
        """
def connect(family, kind, address):
    with socket.socket(family, kind) as client:
        client.settimeout(1)
        client.connect(address)
        client.send(b"breach")
        return kind == socket.SOCK_STREAM
for address in ("127.0.0.1", "0.0.0.0", "localhost"):
    tries("tcp", connect, socket.AF_INET, socket.SOCK_STREAM, (address, host["tcp"]))
    tries("udp", connect, socket.AF_INET, socket.SOCK_DGRAM, (address, host["udp"]))
tries("tcp 6", connect, socket.AF_INET6, socket.SOCK_STREAM, ("::1", host["tcp"]))
tries("abstract", connect, socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + host["abstract"])
tries("abstract datagrams", connect, socket.AF_UNIX, socket.SOCK_DGRAM, "\\0" + host["abstract"] + "-datagrams")
tries("a socket in a folder", connect, socket.AF_UNIX, socket.SOCK_STREAM, host["unix"])
tries("raw packets", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) and True)
tries("raw frames", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3) and True)
links = os.listdir("/sys/class/net") if os.path.exists("/sys/class/net") else []
names = {line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line} | set(links)
if names - {"lo", "sit0", "tunl0", "ip6tnl0", "gre0", "erspan0", "bonding_masters", "ip_vti0", "gretap0", "ip6_vti0",
            "ip6gre0"}:
    breach("a network card", names)
""",
        deadline_s=20,
    ),
)
