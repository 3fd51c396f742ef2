"""Code that cannot be imported elsewhere, such as a script's: the pickle brings functions and classes themselves."""
