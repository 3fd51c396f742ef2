"""Code that cannot be imported elsewhere, such as a script's: functions and classes are pickled with content."""
