"""The page of a run in a real browser: opened, clicked, typed at, in the dark, on paper."""
