"""The journal of a program on disk: what a successor needs to find its jobs. Knows neither clients nor pickles."""
