"""Commands: what people type, turned into settings."""
