"""The code that a program sends to nodes: a function, a class or a program, with the modules that it imports."""
