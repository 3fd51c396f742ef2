"""Module-level state of all kinds, most of which cannot be pickled."""

import asyncio
import collections
import concurrent.futures
import contextvars
import ctypes
import io
import itertools
import logging
import logging.handlers
import multiprocessing
import queue
import random
import re
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import weakref

lock = threading.Lock()
rlock = threading.RLock()
condition = threading.Condition()
event = threading.Event()
semaphore = threading.Semaphore(2)
local = threading.local()
local.value = 5
fifo = queue.Queue()
simple = queue.SimpleQueue()
executor = concurrent.futures.ThreadPoolExecutor(1)
variable = contextvars.ContextVar("variable", default=3)
generator = (n for n in range(10**6))
counter = itertools.count(5)
opened = open(__file__)
temporary = tempfile.TemporaryFile()
connection = sqlite3.connect(":memory:", check_same_thread=False)
sock = socket.socket()
pair = multiprocessing.Pipe()
mplock = multiprocessing.Lock()
shared = multiprocessing.Value("i", 7)


class Key:
    pass


KEY = Key()
weak = weakref.WeakKeyDictionary({KEY: 1})
reference = weakref.ref(KEY)
libc = ctypes.CDLL(None)
structure = (ctypes.c_int * 3)(1, 2, 3)
log = logging.getLogger("kept.states")
handler = logging.StreamHandler(sys.stderr)
rotating = logging.handlers.MemoryHandler(10)
pattern = re.compile("a+")
MISSING = object()
registry = {}
cache = collections.OrderedDict()
default = collections.defaultdict(list)
deque = collections.deque([1], maxlen=3)
text = io.StringIO("x")
view = memoryview(b"abc")
frame = sys._getframe()
module_dict = globals()
aloop = asyncio.new_event_loop()
started = time.time()
rng = random.Random(1)


def register(function):
    registry[function.__name__] = function
    return function


@register
def first():
    return "first"


def use():
    with lock, rlock, condition, semaphore, mplock:
        return (
            event.is_set(), local.value, fifo.empty(), simple.empty(), executor.submit(len, "ab").result(), variable.get(),
            next(counter) >= 5, opened.closed, connection.execute("select 1").fetchone(), weak[KEY], reference() is KEY,
            libc.abs(-3), list(structure), shared.value, sorted(registry), pattern.match("aa").group(), list(deque),
            next(generator) >= 0,
        )  # fmt: skip


def is_missing(value):
    return value is MISSING
