"""Faults for the stress of batch runs; Python imports this first where the folder is on its path.

NPVGG_FAULT holds a JSON object:

    kill     role ("driver" or "worker"), event (of sys.addaudithook) and text: the process kills
             itself when such an event has the text in one of its arguments
    token    a file; killing uses it up, so that it happens once. Without it, it happens every time
    clock    true: the time of day jumps back and forth by up to a day
"""

import json
import os
import random
import signal
import sys
import time

fault = json.loads(os.environ.get("NPVGG_FAULT", "{}"))
role = "worker" if "npvgg.batch.worker" in sys.orig_argv else "driver"
working = []


def hook(event, arguments):
    if working or event != fault["event"] or role != fault["role"]:
        return
    if not any(
        fault["text"] in os.fspath(a) for a in arguments if isinstance(a, str | os.PathLike)
    ):
        return
    working.append(event)
    try:
        if "token" in fault:
            os.unlink(fault["token"])
    except FileNotFoundError:
        working.clear()
        return
    os.kill(os.getpid(), signal.SIGKILL)


if "event" in fault:
    sys.addaudithook(hook)

if fault.get("clock"):
    now = time.time
    time.time = lambda: now() + random.uniform(-86400, 86400)
    time.time_ns = lambda: int(time.time() * 1e9)
