"""The one background thread of a program, and how the thread finds, starts and allocates nodes."""
