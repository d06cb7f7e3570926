"""Why a test failed: pure rules from a timeline to a verdict."""
