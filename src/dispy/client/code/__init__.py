"""What a program sends as code: a function, a class or a program, with the modules that it imports."""
