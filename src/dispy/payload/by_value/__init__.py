"""Code that cannot be imported elsewhere: pickled by value."""
