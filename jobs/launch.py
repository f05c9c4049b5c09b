"""Start a program of the candidate's repository: ``python -P launch.py train.py ARGUMENTS``. Runs inside the sandbox.

The environment's packages go behind the standard library and site-packages on ``sys.path``, and the working directory
behind those: the repository's own modules are importable, and a file called json.py in it never replaces the real one.
Under torchrun several copies run. When one fails others fail after it, so only the first one's traceback is printed.
"""

import os
import runpy
import sys


def say_first_failure(error: BaseException, rank: str, run_id: str) -> None:
    """Print the exception's traceback, or its words, in one piece; of a copy that fails later one line."""
    import tempfile
    import traceback

    text = traceback.format_exc()
    if isinstance(error, SystemExit):
        text = f"{error.code}\n" if isinstance(error.code, str) else ""
    try:
        os.close(os.open(f"{tempfile.gettempdir()}/failed-{run_id}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        text = f"[rank {rank}] failed afterwards: {(text.strip().splitlines() or ['it ended'])[-1]}\n"
    os.write(2, text.encode(errors="replace"))


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    if packages := os.environ.get("XAR_PACKAGES"):
        sys.path.append(packages)
    repository = os.getcwd()  # noqa: PTH109  (pathlib would be one more import before the candidate's clock starts)
    sys.path.append(repository)
    rank, run_id = os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RUN_ID")
    try:
        runpy.run_path(os.path.join(repository, sys.argv[0]), run_name="__main__")  # noqa: PTH118
    except (Exception, SystemExit) as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if rank is None or run_id is None or code in (None, 0):
            raise
        say_first_failure(error, rank, run_id)
        sys.exit(code if isinstance(code, int) else 1)
