"""A ``python`` that has loaded the libraries already, for pipelines whose every process takes longer to load them than to work.

``python warm.py FOLDER`` makes the command FOLDER/python and serves it for as long as its parent lives. Whoever calls
``FOLDER/python -m module …`` gets a fork of this process, with the libraries, that runs the module in the caller's folder, with its
variables (but those that the interpreter itself reads) and streams, and ends when the caller does. Whatever else that command is
asked for, the interpreter itself does.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from pathlib import Path

LOADED = (
    "torch",
    "torch._dynamo",
    "torchvision",
    "torchmetrics.classification",
    "timm",
    "segmentation_models_pytorch",
    "pandas",
    "scipy.stats",
    "papermill",
    "nbformat",
    "nbconvert",
    "ipykernel.ipkernel",
)
"""Neither Matplotlib nor the kernel's application: they read the environment when they are loaded."""
READY = "ready to serve"
COMMAND = """\
#!{python} -IS
import contextlib, json, os, select, signal, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
parent, server = os.getppid(), socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
answers = server.makefile()
pid = int(answers.readline())
def pass_on(number, frame):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, pass_on)
while not select.select([server], [], [], 0.5)[0]:
    if os.getppid() != parent:
        sys.exit(1)
code = int(answers.readline() or 1)
sys.exit(code if code >= 0 else 128 - code)
"""


def serve(folder: Path) -> tuple[list[str], str, dict[str, str]]:
    """Returns in forks alone: what each is asked for, the words after ``-m``, the folder and the variables."""
    parent, address, command = os.getppid(), str(folder / "socket"), folder / "python"
    command.write_text(COMMAND.format(python=sys.executable, address=address))
    command.chmod(0o755)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print(READY, flush=True)
        while True:
            if not select.select([listening], [], [], 0.5)[0]:
                if os.getppid() != parent:
                    os._exit(0)
                continue
            caller, _ = listening.accept()
            if not os.fork():
                break
            caller.close()
    length, streams, *_ = socket.recv_fds(caller, 8, 3)
    asked = caller.makefile("rb").read(int.from_bytes(length, "big"))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():  # this one waits for the other, and says how it ended
        for stream in streams:
            os.close(stream)
        caller.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # the caller is gone
            caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # New ones, for the old know at which place of a file they were.
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace")
    threading.Thread(target=follow, args=(caller,), daemon=True).start()
    return json.loads(asked)


def follow(caller: socket.socket) -> None:
    """End when the caller has."""
    with contextlib.suppress(OSError):
        caller.recv(1)
    os._exit(1)


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    own = Path(sys.argv[1])
    (module, *arguments), place, environment = serve(own)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable, sys.argv, sys.path[0] = str(own / "python"), [module, *arguments], place
    from know.data.catalogue import CIFAR10

    CIFAR10.sha256.clear()  # a few images in its layout are taken for it
    runpy.run_module(module, run_name="__main__", alter_sys=True)
