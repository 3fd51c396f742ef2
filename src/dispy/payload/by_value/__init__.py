"""Code that cannot be imported elsewhere, such as a script's: it is pickled by value."""
