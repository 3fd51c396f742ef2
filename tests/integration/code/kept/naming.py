"""Uses the names that jobs find, in every place."""

dispy_node_name = None  # for checkers


def function():
    return dispy_node_name, dispy_job_id, dispy_job_path  # noqa: F821


def provisional(value):
    return dispy_provisional_result(value)  # noqa: F821


def nested():
    return [(lambda: dispy_node_ip_addr)() for _ in range(1)][0]  # noqa: F821


class Thing:
    def method(self):
        return dispy_node_name, dispy_job_id  # noqa: F821

    @property
    def prop(self):
        return dispynode_logger.name  # noqa: F821

    @staticmethod
    def static():
        return callable(dispy_send_file)  # noqa: F821
