"""Uses the names that jobs find, in every place."""

dispy_node_name = None  # for checkers


def function():
    return dispy_node_name, dispy_job_id, dispy_job_path


def provisional(value):
    return dispy_provisional_result(value)


def nested():
    return [(lambda: dispy_node_ip_addr)() for _ in range(1)][0]


class Thing:
    def method(self):
        return dispy_node_name, dispy_job_id

    @property
    def prop(self):
        return dispynode_logger.name

    @staticmethod
    def static():
        return callable(dispy_send_file)
