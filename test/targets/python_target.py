"""A Python process with a thread, a file mapping and many objects. Usage: python_target.py MEBIBYTES"""

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


def check():
    failed = []
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
    return failed


threading.Thread(target=tick, daemon=True).start()
print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
for line in sys.stdin:
    if line.strip() == "exit":
        break
    failed = check()
    print(json.dumps({"ok": not failed, "failed": failed}), flush=True)
