"""The one background thread of a program, and how it finds and starts nodes."""
