"""What dispy's programs say to each other, and how it looks as bytes. Pure: no I/O, no clocks."""
