"""Somebody who works through a page: saves its files, types its commands, and compares what comes with the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from .helpers import STOP_S, Program, wait_for
from .pages import Step, is_shown, pattern
from .test_program import NOTICE

LAST_S = 25
"""No command of a page takes so long, however busy the machine."""

NOTICE_SHOWN = "dispy: no dispynode runs on this machine"
"""Beginning of the line that says that a node was started for the program."""

Start = Callable[[str, str], Program]
"""Starts a command in a shell: called with the name of the machine and the command."""


class Differs(AssertionError):
    """A command has shown something else than its page says."""


def work_through(steps: Iterable[Step], start: Start, directory: Callable[[str], Path]) -> None:
    """Do all that a page says, in order.

    Files are saved first. A file whose output the page shows is run by Python. A command in a terminal that stays
    open has to show the first line of what the page shows before the next step is done. At the end it has to have
    ended, by itself or by Ctrl-C, and shown all of it.

    Args:
        steps: Blocks of the page, or of several.
        start: Starts a command.
        directory: Gives the directory in which a machine's commands run.

    Raises:
        Differs: A command has shown something else than the page says.
        AssertionError: A command does not end, or does not show its first line.
    """
    todo = list(steps)
    for step in todo:
        if step.kind == "file":
            (directory(step.machine) / step.name).write_text(step.text)
    running: list[tuple[Step, Program]] = []
    for step in todo:
        if step.kind == "run":
            _compare(step, start(step.machine, step.text))
        elif step.kind == "file" and step.shown is not None:
            _compare(step, start(step.machine, f"exec python {step.name}"))
        elif step.kind == "start":
            program = start(step.machine, f"exec {_command(step)}")
            running.append((step, program))
            if step.shown:
                program.wait_line("^" + pattern(step.shown.partition("\n")[0]), deadline_s=LAST_S)
        elif step.kind == "interrupt":
            _interrupt(_running(step, [one for one in running if one[1].process.poll() is None]))
        elif step.kind == "wait":
            _compare(step, _running(step, running))
    for step, program in running:
        _compare(step, program)


def end(started: Iterable[Program]) -> None:
    """End what a page has left running, such as nodes after a step that differs: in order, else by force."""
    programs = list(started)
    with suppress(AssertionError):
        for program in programs:
            if program.process.poll() is None:
                program.send(signal.SIGTERM)
        wait_for(
            lambda: [program.pid for program in programs if program.process.poll() is None],
            lambda left: not left,
            what="all have ended",
            deadline_s=STOP_S,
        )
    for program in programs:
        program.end()


def _command(step: Step) -> str:
    """The one command of a terminal that stays open."""
    return step.text.partition("\n")[2].replace("\\\n", " ").strip()


def _running(step: Step, running: list[tuple[Step, Program]]) -> Program:
    """The program that was started last on a machine by a command with a word."""
    for begun, program in reversed(running):
        if begun.machine == step.machine and re.search(rf"\b{step.name}\b", _command(begun)):
            return program
    raise AssertionError(f"no {step.name} runs on machine {step.machine!r}")


def _interrupt(program: Program) -> None:
    """Press Ctrl-C in the terminal of a command, and wait for its end."""
    program.interrupt_group()
    wait_for(program.process.poll, lambda code: code is not None, what=f"{program.process.args} has ended")


def _compare(step: Step, program: Program) -> None:
    """Wait for the end of a command, which has to show what the page shows.

    The line that says that a node was started for the program is left out if the page does not show it: it depends
    on what runs on the machine.
    """
    program.wait(LAST_S)
    shown, errors = step.shown or "", program.stderr
    if NOTICE_SHOWN not in shown:
        errors = re.sub(f"^{NOTICE}", "", errors, flags=re.MULTILINE)
    if not is_shown(shown, program.stdout, errors):
        said = f"{program.stdout}\nand on stderr:\n{errors}" if errors else program.stdout
        raise Differs(f"{step.name or step.text!r} shows:\n{said}\nand its page:\n{shown}")
