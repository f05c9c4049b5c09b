"""Attacks that want to outlive their deadline, hang who waits for them, or hit processes that are not theirs."""

from __future__ import annotations

from attacks import AT_ITS_DEADLINE, Attack

OUTLIVING = (
    Attack("fork bomb", "while True: forks()", AT_ITS_DEADLINE),
    Attack(
        "fork bomb in sessions of its own",
        """
while True:
    if forks() == 0:
        os.setsid()
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "runaway that never keeps its process id",
        """
while True:
    if forks():
        os._exit(0)
""",
        done_within_s=1.0,
        deadline_s=20,
    ),
    Attack(
        "thread bomb",
        """
def wait(): time.sleep(60)
while True:
    try:
        threading.Thread(target=wait, daemon=True).start()
    except RuntimeError:
        time.sleep(0.01)
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "double fork and setsid",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
time.sleep(0.1)
""",
        done_within_s=2.0,
        deadline_s=20,
    ),
    Attack(
        "grandchild holding stdout",
        "subprocess.Popen([python, '-c', 'import time; time.sleep(60)', marker], start_new_session=True)",
        done_within_s=2.0,
        deadline_s=20,
    ),
    Attack(
        "every signal ignored",
        """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
forks(), forks()
while True: time.sleep(60)
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "every signal blocked",
        """
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
forks()
while True: time.sleep(60)
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "stopped child and stopped self",
        """
child = os.fork()
if child == 0: time.sleep(60)
os.kill(child, signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGSTOP)
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "stopped orphan that holds stdout",
        """
child = os.fork()
if child == 0:
    os.setsid()
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitid(os.P_PID, child, os.WSTOPPED)
""",
        done_within_s=2.0,
        deadline_s=20,
    ),
    Attack(
        "a name that looks dead to who parses /proc",
        """
for name in (b") Z 1 1 1", b"a b) X 0 0", b"(((\\n\\n"):
    if forks() == 0:
        libc.prctl(15, name)
        libc.prctl(4, 0)
        while True: time.sleep(60)
time.sleep(60)
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "children that get no time to die",
        """
for _ in range(24):
    if forks() == 0:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.nice(19)
        os.setsid()
        while True: pass
time.sleep(60)
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "a parent that adopts what it loses, inside namespaces of its own",
        """
libc.prctl(36, 1)
libc.unshare(0x10000000 | 0x20000000)
for _ in range(4):
    if forks() == 0:
        os.setsid()
        if forks() == 0:
            while True: time.sleep(60)
        os._exit(0)
while True: time.sleep(60)
""",
        AT_ITS_DEADLINE,
    ),
    Attack(
        "stdout closed early",
        """
for fd in range(1024):
    try:
        os.close(fd)
    except OSError:
        pass
time.sleep(60)
""",
        AT_ITS_DEADLINE,
    ),
    Attack("stdin never read", "time.sleep(0.1)", stdin_bytes=32 << 20, done_within_s=3.0, deadline_s=20),
    Attack("stdin never read, to the deadline", "time.sleep(60)", AT_ITS_DEADLINE, stdin_bytes=1 << 20),
    Attack(
        "sleeping by odd clocks",
        """
class Time(ctypes.Structure): _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
def sleeps(clock):
    while True:
        libc.clock_nanosleep(clock, 1, ctypes.byref(Time(2**40, 0)), None)
for clock in (0, 1, 7, 11):
    if forks() == 0:
        sleeps(clock)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
sleeps(1)
""",
        AT_ITS_DEADLINE,
    ),
)

HITTING_OTHERS = (
    Attack("kill -9 -1", "os.kill(-1, 9); time.sleep(60)", ("wall", ""), None),
    Attack(
        "kill -9 -1 from a session of its own",
        """
if os.fork() == 0:
    os.setsid()
    for _ in range(50):
        os.kill(-1, 9)
    time.sleep(60)
time.sleep(60)
""",
        ("wall", ""),
        None,
    ),
    Attack("kill -STOP -1", "os.kill(-1, signal.SIGSTOP); os.kill(0, signal.SIGSTOP); time.sleep(60)", AT_ITS_DEADLINE),
    Attack(
        "killing and stopping pid 1",
        """
for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGABRT, signal.SIGKILL):
    try:
        os.kill(1, number)
    except OSError:
        pass
print("tried")
""",
        ("", "wall"),
        None,
    ),
    Attack(
        "holding pid 1 and the parent by ptrace",
        """
for pid in (1, os.getppid()):
    if libc.ptrace(16, pid, 0, 0) == 0:
        time.sleep(0.05)
        libc.ptrace(7, pid, 0, 0) if pid != 1 else libc.ptrace(17, pid, 0, signal.SIGSTOP)
if os.fork() == 0:
    os.setsid()
    libc.ptrace(16, 1, 0, 0)
    time.sleep(60)
""",
        ("", "wall"),
        None,
    ),
    Attack(
        "signals to its parent and every group",
        """
others = {os.getppid(), os.getpgid(0), os.getsid(0), *range(-40, -1), *range(1, 40), host["canary_pid"]}
for number in (signal.SIGSTOP, signal.SIGKILL):
    for pid in others - {os.getpid(), -os.getpgid(0), 0}:
        try:
            os.kill(pid, number)
        except OSError:
            pass
time.sleep(60)
""",
        ("wall", ""),
        None,
    ),
    Attack(
        "ptrace and memory of pid 1 and of the canary",
        """
def not_ours(pid):  # an ordinary user's sandbox has a pid 1 of the same user and rights, inside like the command
    return os.path.exists(f"/proc/{pid}") and os.stat(f"/proc/{pid}").st_uid != os.getuid()
for pid in filter(not_ours, (1, host["canary_pid"])):
    for request in (16, 0x4206):
        tries(f"ptrace {pid}", lambda: libc.ptrace(request, pid, 0, 0))
    for name in ("mem", "environ", "syscall", "auxv", "maps"):
        tries(f"{name} of {pid}", lambda: open(f"/proc/{pid}/{name}", "rb").read(64) or False)
    tries(f"writing memory of {pid}", lambda: open(f"/proc/{pid}/mem", "r+b"))
    tries(f"descriptors of {pid}", lambda: os.listdir(f"/proc/{pid}/fd"))
    tries(f"root of {pid}", lambda: os.listdir(f"/proc/{pid}/root/"))
    class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    mine = ctypes.create_string_buffer(8)
    local, remote = Vector(ctypes.addressof(mine), 8), Vector(0x400000, 8)
    tries(f"reading {pid}", lambda: libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
    tries(f"a descriptor of {pid}", lambda: libc.syscall(438, os.pidfd_open(pid), 0, 0))
    tries(f"limits of {pid}", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, 1)))
    tries(f"priority of {pid}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
""",
    ),
)
