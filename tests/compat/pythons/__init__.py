"""Programs and nodes on different minor versions of Python, each with each."""
