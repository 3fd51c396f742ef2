"""Builds the site of ``docs/``: reads the source for what its pages list, and checks what comes out.

``python -m docs_site`` builds it. ``docs/conf.py`` has Sphinx call ``pages.filled`` for each page. All other modules
are functions of texts and know nothing of Sphinx.
"""
