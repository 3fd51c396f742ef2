"""Objects as arguments: nodes get their class with ``depends``; what its methods print arrives with the job."""

import dispy


class Circle:
    """Something that programs compute with."""

    def __init__(self, name: str, radius: float) -> None:
        self.name = name
        self.radius = radius

    def area(self) -> float:
        print(f"the area of {self.name} is computed")
        return 3.14159 * self.radius**2


def area_of(circle: Circle) -> float:
    return circle.area()


if __name__ == "__main__":
    cluster = dispy.JobCluster(area_of, depends=[Circle])
    jobs = []
    for number in range(1, 5):
        circle = Circle(f"circle {number}", number / 2)
        job = cluster.submit(circle)
        job.id = circle  # whatever helps to tell jobs apart
        jobs.append(job)
    for job in jobs:
        area = job.get()
        print(f"{job.stdout.strip()} on {job.ip_addr}: {area:.3f}")
        assert job.stdout == f"the area of {job.id.name} is computed\n"
        assert area == 3.14159 * job.id.radius**2
    cluster.close()
