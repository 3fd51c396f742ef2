"""Real processes, killed, stopped and cut off at random while jobs run; and a checker of what came of them."""
