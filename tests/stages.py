"""Files of tests that CI runs in a stage of their own, beside the tests that the README's command runs.

Run them with ``python -m pytest -n 3 --dist worksteal $(python -m tests.stages)``, or each by its name. They take
eight minutes; the command of the README stays below five with the others.
"""

import sys

STAGED = (
    # Code in every form, in every layout of a program.
    "integration/test_code.py",
    "unit/test_payload_layouts.py",
    # Other accounts of the machine; deaths and shortages run with and without them.
    "integration/test_deaths.py",
    "integration/test_file_owners.py",
    "integration/test_hidden_memory.py",
    "integration/test_node_user.py",
    "integration/test_other_users.py",
    "integration/test_shortage.py",
    # Type checkers, which read all of dispy.
    "unit/test_typed.py",
    # Hostile peers, and faults of our own.
    "integration/test_derived_keys.py",
    "integration/test_faults.py",
    "integration/test_plain_results.py",
    "integration/test_strangers.py",
    # Namespaces: containers, machines that share a home, and machines of one network.
    "integration/test_containers.py",
    "integration/test_doctor.py",
    "integration/test_found.py",
    "integration/test_found_on_network.py",
    "integration/test_tls_machines.py",
    "integration/test_tutorial.py",
    # Terminals that are hung up.
    "integration/test_terminal.py",
    # Long runs with much, and all that may be left of it.
    "integration/test_files_beside.py",
    "integration/test_job_nonsense.py",
    "integration/test_large.py",
    "integration/test_memory_left.py",
    "integration/test_peer_text.py",
    "integration/test_poison.py",
    "integration/test_sharing.py",
    "integration/test_standing_still.py",
    # Logs, read as an administrator does.
    "integration/test_logs.py",
    # Whole programs, one process or more for each row of a table.
    "integration/test_examples.py",
    "integration/test_executor_standard.py",
    "integration/test_heard.py",
    "integration/test_how_to.py",
    "integration/test_interrupts.py",
    "integration/test_joblib.py",
    "integration/test_joblib_standard.py",
    "integration/test_random_numbers.py",
    "integration/test_setup.py",
    "integration/test_signals.py",
    # Ends of programs, nodes and hosts in all their ways.
    "integration/test_callbacks_awaited.py",
    "integration/test_files_kept.py",
    "integration/test_last_words.py",
    "integration/test_recover.py",
    "integration/test_recover_all.py",
    "integration/test_recover_next.py",
    "integration/test_same_numbers.py",
    "integration/test_spool.py",
)

_MIXED_NAMES = (
    "callbacks", "cancel", "code", "code_depends", "executor", "files", "isolated", "job_files", "job_names", "map",
    "output", "plain_results", "put", "random_numbers", "recover", "recover_all", "send_file", "setup", "shared",
    "state", "steering", "submit", "values",
)  # fmt: skip

MIXED = tuple(f"integration/test_{name}.py" for name in _MIXED_NAMES)
"""Files of tests that CI runs once more with nodes of another minor version of Python.

``DISPY_TEST_NODE_PYTHON`` names the interpreter of nodes.
"""

if __name__ == "__main__":
    print(*[f"tests/{path}" for path in (MIXED if "mixed" in sys.argv[1:] else STAGED)])
