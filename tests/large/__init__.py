"""Large data on a slow line, at full size: too long for the tests of every day."""
