"""Map and reduce with two clusters: one counts words in pieces of text, the other adds up what they found."""

import collections

import dispy

TEXT = """
the quick brown fox jumps over the lazy dog while the lazy dog dreams that the quick fox
jumps over another lazy dog that dreams of brown foxes
"""
PIECE = 10
"""Pairs for one reducing job."""


def count(line: str) -> list[tuple[str, int]]:
    """Words of more than three letters and how often they are there."""
    words = [word for word in line.split() if len(word) > 3]
    return sorted((word, words.count(word)) for word in set(words))


def add(pairs: list[tuple[str, int]]) -> dict[str, int]:
    """Sums by word."""
    sums: dict[str, int] = {}
    for word, number in pairs:
        sums[word] = sums.get(word, 0) + number
    return sums


if __name__ == "__main__":
    lines = TEXT.strip().splitlines() * 10
    # Jobs of both are run again elsewhere should a node die.
    mapper = dispy.JobCluster(count, reentrant=True)
    reducer = dispy.JobCluster(add, reentrant=True)
    pairs: list[tuple[str, int]] = []
    reducing = []
    for job in dispy.as_completed([mapper.submit(line) for line in lines]):
        pairs += job.result
        while len(pairs) >= PIECE:  # the second begins while the first goes on
            reducing.append(reducer.submit(pairs[:PIECE]))
            del pairs[:PIECE]
    reducing.append(reducer.submit(pairs))
    total: collections.Counter[str] = collections.Counter()
    for job in reducing:
        total.update(job.get())
    mapper.close()
    reducer.close()
    for word, number in total.most_common():
        print(f"{number:4} {word}")
    assert total == collections.Counter(word for word in (TEXT * 10).split() if len(word) > 3)
