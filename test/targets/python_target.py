"""A Python process with a thread, a file mapping and many objects; a busy one makes new ones all the time.

Usage: python_target.py MEBIBYTES [busy]
"""

import hashlib
import json
import mmap
import os
import sys
import tempfile
import threading
import time


def digest(data):
    return hashlib.sha256(data).hexdigest()


def content(seed, size):
    block = b"".join(hashlib.sha256(b"%d %d" % (seed, i)).digest() for i in range(2048))
    return bytearray(block * (size // len(block)))


mebibytes = int(sys.argv[1]) if len(sys.argv) > 1 else 16
busy = "busy" in sys.argv[2:]
data = content(1, mebibytes << 20)
expected = digest(data)
objects = {f"key {i}": [i, f"value of {i}"] for i in range(50_000)}
ticks = 0

with tempfile.TemporaryFile() as file:
    file.write(content(2, 1 << 20))
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0)
mapped[0:5] = b"hello"
mapped_expected = digest(mapped)


def tick():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.001)


turns = 0
recent = {}
wrong = []


def work():
    """Makes objects, keeps them for a while, and looks at them before it lets them go."""
    global turns
    while True:
        turns += 1
        old = recent.pop(turns % 500, None)
        if old is not None and old[1] != [f"{old[0]} {i}" for i in range(200)]:
            wrong.append(f"the objects of turn {old[0]}")
        recent[turns % 500] = (turns, [f"{turns} {i}" for i in range(200)])


def check():
    failed = list(wrong)
    if digest(data) != expected:
        failed.append("the data changed")
    if digest(mapped) != mapped_expected:
        failed.append("the mapped file changed")
    for key, (i, text) in objects.items():
        if key != f"key {i}" or text != f"value of {i}":
            failed.append(f"object {key}")
    before = ticks
    while ticks <= before:
        time.sleep(0.001)
    if busy:
        before = turns
        while turns <= before:
            time.sleep(0.001)
    return failed


threading.Thread(target=tick, daemon=True).start()
if busy:
    threading.Thread(target=work, daemon=True).start()
print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
for line in sys.stdin:
    if line.strip() == "exit":
        break
    failed = check()
    print(json.dumps({"ok": not failed, "failed": failed}), flush=True)
