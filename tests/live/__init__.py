"""Real sessions that somebody watches, or looks into, while they run: they take as long as they are watched."""
