"""Start a program of the candidate's repository: ``python -P launch.py train.py ARGUMENTS``. Runs inside the sandbox.

The working directory goes *behind* the standard library and site-packages on ``sys.path``: the repository's own modules
are importable, and a file called json.py in it never replaces the real one.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    repository = os.getcwd()  # noqa: PTH109  (pathlib would be one more import before the candidate's clock starts)
    sys.path.append(repository)
    runpy.run_path(os.path.join(repository, sys.argv[0]), run_name="__main__")  # noqa: PTH118
