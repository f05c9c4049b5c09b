"""Attacks that want more than their share: memory, processes, descriptors, disk, output."""

from __future__ import annotations

from attacks import Attack

FULL = ("memory", "disk", "")
"""A folder in memory ends a command by its memory, one on disk by the disk; a small one is just full."""

EATING_MEMORY = (
    Attack("memory hog", "held = bytearray(b'x') * (1 << 30); time.sleep(60)", ("memory",), None, 20, 10),
    Attack(
        "memory hog in many processes",
        """
for _ in range(15):
    if forks() == 0:
        os.setsid()
        held = bytearray(b'x') * (48 << 20)
        time.sleep(60)
time.sleep(60)
""",
        ("memory",),
        None,
        20,
        10,
    ),
    Attack(
        "memory hog that asks to be killed last",
        """
for score in ("-1000", "-999", "-500", "0"):
    try:
        write("/proc/self/oom_score_adj", score)
    except OSError:
        pass
if int(open("/proc/self/oom_score_adj").read()) < 0:
    breach("protected from the kernel's killer")
if os.stat("/proc/1").st_uid != os.getuid():
    tries("pid 1 is offered in its place", write, "/proc/1/oom_score_adj", "1000")
held = bytearray(b'x') * (1 << 30)
time.sleep(60)
""",
        ("memory",),
        None,
        20,
        10,
    ),
    Attack(
        "memory files without a name",
        """
for n in range(16):
    fd = os.memfd_create(str(n))
    for _ in range(31):
        os.write(fd, bytes(1 << 20))
time.sleep(60)
""",
        ("memory",),
        None,
        20,
        10,
    ),
    Attack(
        "filling /dev/shm",
        """
try:
    for n in range(1000):
        write(f"/dev/shm/{marker}-{n}", "x" * (8 << 20))
except OSError as error:
    sys.exit(0 if error.errno == errno.ENOSPC else 3)
time.sleep(60)
""",
        FULL,
        None,
        20,
        15,
    ),
)

EATING_DISK = (
    Attack(
        "filling the workspace",
        """
for n in range(10**6):
    write(f"{marker}-{n}", "x" * (1 << 20))
    time.sleep(0.003)
""",
        ("disk",),
        None,
        20,
        15,
    ),
    Attack(
        "filling /tmp",
        """
try:
    for n in range(10**6):
        write(f"/tmp/{marker}-{n}", "x" * (1 << 20))
        time.sleep(0.003)
except OSError as error:
    sys.exit(0 if error.errno == errno.ENOSPC else 3)
""",
        FULL,
        None,
        20,
        15,
    ),
    Attack(
        "many small files",
        """
for n in range(10**7):
    if n % 1000 == 0:
        os.mkdir(f"d{n // 1000}")
    os.close(os.open(f"d{n // 1000}/{n}", os.O_CREAT | os.O_WRONLY))
""",
        ("disk",),
        None,
        30,
        25,
    ),
    Attack(
        "a file that has lost its name",
        """
files = []
for n in range(100):
    file = open("gone", "wb", buffering=0)
    os.unlink("gone")
    files.append(file)
    for _ in range(16):
        file.write(bytes(1 << 20))
        time.sleep(0.01)
""",
        ("disk",),
        None,
        20,
        15,
    ),
    Attack(
        "one file of a terabyte",
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tries("a file beyond the limit", lambda: os.truncate(os.open("big", os.O_CREAT | os.O_RDWR), 1 << 40))
with open("big", "wb", buffering=0) as file:
    tries("written beyond the limit", lambda: os.pwrite(file.fileno(), b"x", 1 << 40))
    tries("reserved beyond the limit", lambda: os.posix_fallocate(file.fileno(), 0, 1 << 30))
""",
    ),
)

EATING_THE_REST = (
    Attack(
        "descriptor exhaustion",
        """
fds = []
try:
    while len(fds) < 100_000:
        fds.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    if error.errno != errno.EMFILE: breach("another limit came first", error)
if len(fds) > 256: breach("too many descriptors", len(fds))
for fd in fds[:20]:
    os.close(fd)
queued = 0
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
left.setblocking(False)
try:
    while queued < 100_000:
        socket.send_fds(left, [b"x"], fds[40:100])
        queued += 60
except OSError:
    pass
if queued > 5000: breach("descriptors hidden in a socket", queued)
""",
    ),
    Attack(
        "memory in pipes and sockets",
        """
import fcntl
held = []
try:
    for _ in range(110):
        read, write_end = os.pipe()
        os.set_blocking(write_end, False)
        held.append((read, write_end))
        try:
            fcntl.fcntl(write_end, 1031, 1 << 20)
        except OSError:
            pass
        try:
            while os.write(write_end, bytes(1 << 16)): pass
        except BlockingIOError:
            pass
except OSError:
    pass
time.sleep(0.2)
""",
        ("", "memory"),
        None,
        20,
    ),
    Attack(
        "limits raised",
        """
for name in ("RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE"):
    number = getattr(resource, name)
    hard = resource.getrlimit(number)[1]
    if hard == resource.RLIM_INFINITY:
        continue
    tries(name, lambda: resource.setrlimit(number, (hard + 1, hard + 1)))
tries("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
tries("above the others", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10))
tries("locked memory", lambda: libc.mlockall(3) if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < 0 else -1)
for version in ("", "memory/", "pids/"):
    for name in ("memory.max", "pids.max", "memory.limit_in_bytes", "cgroup.procs"):
        tries("its control group", write, f"/sys/fs/cgroup/{version}{name}")
""",
    ),
    Attack(
        "a gigabyte of output",
        """
block = bytes(range(256)) * 4096
for _ in range(1024):
    os.write(1, block)
""",
        ("", "wall"),
        None,
        20,
    ),
    Attack(
        "output without end from many", "forks(), forks(), forks()\nwhile True: os.write(1, b'y\\n' * 4096)", ("wall",)
    ),
    Attack(
        "output that looks like a report",
        """
frames = b"\\x01\\0\\0\\0\\0\\0\\0\\x05hello\\x02\\0\\0\\0\\xff\\xff\\xff\\xff\\x03\\0\\0\\0\\0\\0\\0\\0"
report = b'\\n{"code": 0, "stopped_by": "", "oom": 0, "lost": 1, "found": 0}\\ns\\n7\\n'
for fd in range(3, 256):
    try:
        os.write(fd, report * 100)
        breach("wrote to descriptor", fd)
    except OSError:
        pass
os.write(1, frames * 1000 + report)
os.write(2, frames[3:] * 1000 + report)
sys.exit(7)
""",
        exits=7,
    ),
    Attack("a core file", "os.abort()", exits=134),
)
