"""From a question to its schedule: what memory grants, what a cache starts with, and schedules kept on disk."""
