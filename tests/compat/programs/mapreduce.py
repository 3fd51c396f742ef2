# Two clusters: words are counted where the documents are, and added up anywhere.
def mapper(doc):
    # input reader and map function are combined
    import os
    words = []
    with open(os.path.join(doc)) as fd:
        for line in fd:
            words.extend((word.lower(), 1) for word in line.split() if len(word) > 3 and word.isalpha())
    return words

def reducer(pairs):
    words = {}
    for word, n in pairs:
        words[word] = words.get(word, 0) + n
    return list(words.items())

if __name__ == '__main__':
    import dispy, logging, os, socket

    # assume nodes node1 and node2 have 'doc1', 'doc2' etc. on their
    # local storage, so no need to transfer them
    docs = []
    for i in range(4):
        docs.append(os.path.abspath('doc%d' % i))
        with open(docs[-1], 'w') as fd:
            fd.write('Some words here are there and some words are everywhere\n' * 100)
    map_cluster = dispy.JobCluster(mapper, nodes=['127.0.0.1', 'localhost'] if False else None, reentrant=True,
                                   loglevel=logging.DEBUG)
    # any node can work on reduce
    reduce_cluster = dispy.JobCluster(reducer, nodes='*', reentrant=True)
    map_jobs = []
    for f in docs:
        job = map_cluster.submit(f)
        map_jobs.append(job)
    reduce_jobs = []
    for map_job in map_jobs:
        words = map_job()
        if not words:
            raise SystemExit(map_job.exception)
        # simple partition
        n = 0
        while n < len(words):
            m = min(len(words) - n, 1000)
            reduce_job = reduce_cluster.submit(words[n:n+m])
            reduce_jobs.append(reduce_job)
            n += m
    # reduce
    words = {}
    for reduce_job in reduce_jobs:
        pairs = reduce_job()
        for word, n in pairs:
            words[word] = words.get(word, 0) + n
    for word, n in sorted(words.items(), key=lambda x: x[1], reverse=True):
        print('%s: %s' % (word, n))
    assert words == {'some': 800, 'words': 800, 'here': 400, 'there': 400, 'everywhere': 400}
    map_cluster.close()
    reduce_cluster.close()
