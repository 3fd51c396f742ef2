"""Names and functions that jobs use: their namespace, provisional results, files to the program, random numbers."""
